"""A learned increasing function made of rational-quadratic pieces."""

import math
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from flow_solvers.precision import in_float64
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.domain import Domain, LocalBounds
from flow_core.events import per_sample_sum
from flow_core.layers.activations.rational_quadratic import Piece, slope_range
from flow_core.layers.stretch import from_slopes
from flow_core.passes import Direction, Pass, zeros


@final
class RationalQuadraticSpline(Bijection):
    """A learned increasing spline from [−B, B] onto itself, the identity outside.

    Raw parameters become K widths and heights by a softmax above a minimum, and K − 1 slopes at the
    inner knots by a softplus above a minimum; the slopes at ±B are 1, so that the map is
    differentiable everywhere. Parameters are 0.01·N(0, 1) at first, close to the identity.
    log|det ∂y/∂x| = Σ log f'(x) over all values of a sample. Source: Durkan et al. 2019, eqs. 4-8
    (see `Piece`); as a layer of a flow, Keller et al. 2021 (Self Normalizing Flows).

    Args:
        bins: K, at least 2.
        tail_bound: B.
        shape: Shape of a sample, for one spline per value; None shares one spline.
        min_width: Smallest width of a bin, as a fraction of 2B; below 1/K.
        min_height: Smallest height of a bin, as a fraction of 2B; below 1/K.
        min_slope: Smallest slope at a knot; below 1, the slope of zero parameters.
    """

    def __init__(
        self,
        bins: int = 5,
        tail_bound: float = 10.0,
        shape: Sequence[int] | None = None,
        *,
        min_width: float = 1e-3,
        min_height: float = 1e-3,
        min_slope: float = 1e-3,
    ) -> None:
        super().__init__(shape)
        if bins < 2 or not 0 < tail_bound < math.inf:
            raise ValueError(
                "expected at least two bins and a positive tail_bound, got "
                f"bins={bins}, tail_bound={tail_bound}"
            )
        if not (0 < min_width * bins < 1 and 0 < min_height * bins < 1 and 0 < min_slope < 1):
            raise ValueError(
                f"expected positive min_width and min_height below 1/bins = {1 / bins:.3g} and a "
                f"positive min_slope below 1, got min_width={min_width}, min_height={min_height}, "
                f"min_slope={min_slope}"
            )
        self.bins, self.tail_bound = bins, tail_bound
        self.shape = None if shape is None else tuple(shape)
        self.min_width, self.min_height, self.min_slope = min_width, min_height, min_slope
        splines = self.shape or ()
        self.raw_widths = nn.Parameter(0.01 * torch.randn(*splines, bins))
        self.raw_heights = nn.Parameter(0.01 * torch.randn(*splines, bins))
        self.raw_slopes = nn.Parameter(0.01 * torch.randn(*splines, bins - 1))

    def extra_repr(self) -> str:
        """Size shown in the representation of a model."""
        return f"bins={self.bins}, tail_bound={self.tail_bound}, shape={self.shape}"

    @torch.no_grad()
    def bounds(self) -> Bounds:
        """The largest slope of any piece, or 1 of the tails, and one over the smallest.

        A piece is cut into parts; in each of them numerator and denominator of the slope are
        quadratics, which lie between their Bernstein coefficients there.
        """
        lowest, highest = slope_range(Piece(*in_float64(self._table()[0]).unbind()))
        return from_slopes(min(1.0, lowest) * (1 - 1e-6), max(1.0, highest) * (1 + 1e-6))

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """The same everywhere; [−B, B] is mapped onto itself, and the rest stays."""
        within = self.tail_bound
        lower = domain.lower if domain.lower <= -within else -within
        upper = domain.upper if domain.upper >= within else within
        return LocalBounds(self.bounds(), domain.image(lower, upper))

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        piece, inner, tails = self._enter(x, inverse=False)
        y = torch.where(tails, x, piece.value(inner))
        return y, how.log_det(
            x, lambda: per_sample_sum(piece.log_slope(inner).masked_fill(tails, 0))
        )

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        piece, inner, tails = self._enter(y, inverse=True)
        if not how.wants_log_det:
            return torch.where(tails, y, piece.inverse(inner)), zeros(y)
        x, log_slope = piece.inverse_and_log_slope(inner)
        return torch.where(tails, y, x), -per_sample_sum(log_slope.masked_fill(tails, 0))

    def _enter(self, v: Tensor, *, inverse: bool) -> tuple[Piece, Tensor, Tensor]:
        """The piece of every value, the values held within [−B, B], and which lie outside."""
        # Values outside are moved in: the piece would overflow there, and its gradient be NaN.
        held = v.clamp(-self.tail_bound, self.tail_bound)
        return self._piece(held, inverse=inverse), held, v.abs() >= self.tail_bound

    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """The numbers of all pieces, and the abscissas and ordinates of the knots."""
        x = self._knots(self.raw_widths, self.min_width)
        y = self._knots(self.raw_heights, self.min_height)
        slopes = self._slopes()
        table = torch.stack(
            [x[..., :-1], x.diff(), y[..., :-1], y.diff(), slopes[..., :-1], slopes[..., 1:]]
        )
        return table, x, y

    def _piece(self, v: Tensor, *, inverse: bool) -> Piece:
        table, x, y = self._table()
        inner = (y if inverse else x)[..., 1:-1]
        index = (v.unsqueeze(-1) >= inner).sum(-1)
        if self.shape is not None:
            first = torch.arange(0, table[0].numel(), self.bins, device=v.device)
            index = index + first.view(self.shape)
        # The gradient of table[:, index] would take a hundred times as long on the CPU.
        chosen = table.flatten(1).index_select(1, index.flatten())
        return Piece(*chosen.view(len(table), *v.shape).unbind())

    def _knots(self, raw: Tensor, minimum: float) -> Tensor:
        """−B, the inner knots and B, which are exact: the pieces are made from these numbers."""
        sizes = minimum + (1 - minimum * self.bins) * torch.softmax(raw, -1)
        inner = self.tail_bound * (2 * sizes[..., :-1].cumsum(-1) - 1)
        return F.pad(F.pad(inner, (1, 0), value=-self.tail_bound), (0, 1), value=self.tail_bound)

    def _slopes(self) -> Tensor:
        # Zero parameters have slope 1.
        raw = self.raw_slopes + math.log(math.expm1(1 - self.min_slope))
        return F.pad(self.min_slope + F.softplus(raw), (1, 1), value=1.0)
