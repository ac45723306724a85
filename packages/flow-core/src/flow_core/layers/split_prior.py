"""The learned prior of a part that leaves a multiscale model."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast, final

from torch import Tensor, nn

from flow_core.bijection import Bijection, fits
from flow_core.bounds import Bounds, ratio
from flow_core.context import Context
from flow_core.domain import Domain, LocalBounds
from flow_core.events import per_sample_sum
from flow_core.layers.couplings.scales import (
    BoundedExpScale,
    ExpScale,
    ScaleFunction,
    moves_on,
)
from flow_core.layers.shear import Moves
from flow_core.lipschitz.plain import halves, widened_up
from flow_core.passes import Direction, Pass


@final
class SplitPrior(Bijection):
    """y = (x − μ(h))·e^(−s(h)): standardise the leaving part x, given the staying part h.

    The context is h. With y ~ N(0, I) this is the conditional Gaussian prior
    p(x | h) = N(x; μ(h), e^(2·s(h))) written as a layer, so that the base stays N(0, I).
    log|det ∂y/∂x| = −Σ s. s = c·tanh(r/c) of the conditioner's output (μ, r) keeps every scale
    within [e^(−c), e^c], so sampling cannot overflow. Source: Kingma & Dhariwal 2018, §3.6 and
    released code (learned split priors); Dinh et al. 2017, §3.6.

    Args:
        conditioner: Maps h to `(batch, 2·c, ...)`: μ, then r, for c leaving channels.
        log_scale_bound: c, in nats, or None for s = r, which Glow has and with which samples can
            overflow.
        event_shape: Shape of a leaving part, as far as the conditioner is made for one.
        context_shape: Shape of a staying part, likewise.
    """

    uses_context = True

    def __init__(
        self,
        conditioner: nn.Module,
        *,
        log_scale_bound: float | None = 4.0,
        event_shape: Sequence[int | None] | None = None,
        context_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(event_shape)
        if log_scale_bound is not None and not 0 < log_scale_bound < math.inf:
            raise ValueError(f"expected a positive log_scale_bound, got {log_scale_bound}")
        self.conditioner = conditioner
        self.log_scale_bound = log_scale_bound
        self.context_shape = None if context_shape is None else tuple(context_shape)

    @classmethod
    def convolutional(
        cls, staying: int, leaving: int, hidden: int, *, log_scale_bound: float | None = 4.0
    ) -> "SplitPrior":
        """Two 3x3 convolutions on images; the identity at first.

        Args:
            staying: Channels of the context.
            leaving: Channels of the part that leaves.
            hidden: Channels between the convolutions.
            log_scale_bound: c in nats, or None.
        """
        last = nn.Conv2d(hidden, 2 * leaving, 3, padding=1)
        first = nn.Conv2d(staying, hidden, 3, padding=1)
        return cls(
            nn.Sequential(first, nn.SiLU(), _zero(last)),
            log_scale_bound=log_scale_bound,
            event_shape=(leaving, None, None),
            context_shape=(staying, None, None),
        )

    @classmethod
    def dense(cls, staying: int, leaving: int, hidden: int) -> "SplitPrior":
        """Two linear layers on vectors; the identity at first."""
        last, first = nn.Linear(hidden, 2 * leaving), nn.Linear(staying, hidden)
        return cls(
            nn.Sequential(first, nn.SiLU(), _zero(last)),
            event_shape=(leaving,),
            context_shape=(staying,),
        )

    def bounds(self) -> Bounds:
        """e^c both ways: those of the leaving part, for any staying part."""
        if self.log_scale_bound is None:
            return Bounds()
        most = widened_up(math.exp(self.log_scale_bound))
        return Bounds(most, most)

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """Those of the leaving part, from the range of s where that of the context is known."""
        moves = self._moves_on(domain)
        if moves is None:
            return LocalBounds(self.bounds(), domain.image())
        bounds = Bounds(moves.highest, widened_up(ratio(1.0, moves.lowest)))
        return LocalBounds(bounds, moves.image(domain, direction))

    def bounds_with_context_on(
        self, domain: Domain, direction: Direction = "transform"
    ) -> LocalBounds:
        """Those of both parts together, as of a coupling with t = −μ and the scale e^(−s)."""
        moves = self._moves_on(domain)
        if moves is None:
            return LocalBounds(Bounds(), domain.image())
        return LocalBounds(moves.bounds(domain, direction), moves.image(domain, direction))

    def _moves_on(self, domain: Domain) -> Moves | None:
        """What is known of −μ and e^(−s); None where nothing is of the context."""
        if domain.context is None:
            return None
        net = halves(self.conditioner, domain.context)
        moves = moves_on(net, domain, self._scale())
        shift = domain.image(-moves.shift.upper, -moves.shift.lower, moves.shift.norm)
        lowest, highest = ratio(1.0, moves.highest), ratio(1.0, moves.lowest)
        return replace(moves, shift=shift, lowest=lowest, highest=widened_up(highest))

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        mean, log_scale = self._condition(x, how.context)
        y = (x - mean) * (-log_scale).exp()
        return y, how.log_det(x, lambda: -per_sample_sum(log_scale))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        mean, log_scale = self._condition(y, how.context)
        x = y * log_scale.exp() + mean
        return x, how.log_det(y, lambda: per_sample_sum(log_scale))

    def _condition(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """μ and s, each of the shape of x."""
        raw = cast(Tensor, self.conditioner(self._staying(context)))
        if x.ndim < 2 or raw.shape != (len(x), 2 * x.shape[1], *x.shape[2:]):
            raise ValueError(
                f"SplitPrior: expected a conditioner that gives two times the shape "
                f"{tuple(x.shape)} in dimension 1, got {tuple(raw.shape)}"
            )
        mean, raw = raw.chunk(2, dim=1)
        return mean, self._scale().log_scale(raw)

    def _scale(self) -> ScaleFunction:
        """What makes e^s of r."""
        bound = self.log_scale_bound
        return ExpScale() if bound is None else BoundedExpScale(bound)

    def _staying(self, context: Context) -> Tensor:
        """The context, if the conditioner is made for it."""
        # Asked for at the outermost call, unless a composition there says that it uses none.
        if context is None:
            raise ValueError("SplitPrior: expected the staying part as context, got None")
        if self.context_shape is not None and not fits(context, self.context_shape):
            raise self.refusal("a context", self.context_shape, context)
        return context


def _zero(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
