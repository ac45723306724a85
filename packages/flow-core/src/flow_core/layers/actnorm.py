"""Per-channel scale and shift, standardised by the first batch."""

import math
from typing import final

import torch
from flow_solvers.precision import in_float64
from torch import Tensor, nn

from flow_core.bounds import Bounds
from flow_core.context import Context
from flow_core.domain import Domain, LocalBounds
from flow_core.layers.data_dependent import DataDependent
from flow_core.layers.per_channel import require_channels, spread, summed_over_pixels
from flow_core.layers.stretch import from_log_scales, log_added, scaled
from flow_core.passes import Direction, Pass
from flow_core.statistics import channel_moments

# A scale at its bound would learn no more.
_NEAR_ONE = 0.99


@final
class ActNorm(DataDependent):
    """y = (x + b)·e^w with one b and w per channel, on `(batch, c)` or `(batch, c, h, w)`.

    log|det ∂y/∂x| = (values per channel)·Σ w. Initialization sets b = −mean and
    w = log std − ½·log max(variance, floor), so that the first batch leaves standardised; the floor
    keeps channels that hardly vary from being blown up. Source: Kingma & Dhariwal 2018, §3.1; the
    parametrisation and the floor of 0.2 are those of Residual Flows (Chen et al. 2019).

    With a `log_scale_bound` c the scale is e^(c·tanh(w/c)), within [e^(−c), e^c] whatever training
    does, and an epsilon ε is added to either scale. Source: Behrmann et al. 2021, §B and released
    code.

    Args:
        channels: Size of dimension 1.
        variance_floor: Smallest variance that is scaled to one.
        log_scale_bound: c in nats, or None for scales without a bound.
        epsilon: ε, which no scale falls below.
        std: Standard deviation that channels of the first batch leave with.
    """

    def __init__(
        self,
        channels: int,
        *,
        variance_floor: float = 0.2,
        log_scale_bound: float | None = None,
        epsilon: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        if channels < 1 or not 0 < variance_floor < math.inf:
            raise ValueError(
                "expected at least one channel and a positive variance_floor, got "
                f"channels={channels}, variance_floor={variance_floor}"
            )
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        if log_scale_bound is not None and not 0 < log_scale_bound < math.inf:
            raise ValueError(f"expected a positive log_scale_bound, got {log_scale_bound}")
        if not (0 <= epsilon < math.inf and 0 < std < math.inf):
            raise ValueError(
                f"expected epsilon >= 0 and a positive std, got epsilon={epsilon}, std={std}"
            )
        self.variance_floor = variance_floor
        self.log_scale_bound = log_scale_bound
        self.epsilon = epsilon
        self.std = std

    def extra_repr(self) -> str:
        """Size shown in the representation of a model."""
        return f"channels={self.bias.numel()}"

    def fit(self, x: Tensor, context: Context = None) -> None:
        """Set b and w from the mean and unbiased variance over all ranks."""
        mean, variance = self._moments(x)
        self.bias.copy_(-mean)
        wanted = math.log(self.std) - 0.5 * variance.clamp(min=self.variance_floor).log()
        left = 1 - self.epsilon * (-wanted).exp()
        wanted = wanted + left.clamp(min=1 - _NEAR_ONE).log()
        bound = self.log_scale_bound
        if bound is not None:
            within = (wanted / bound).clamp(-_NEAR_ONE, _NEAR_ONE)
            wanted = bound * torch.atanh(within)
        self.log_scale.copy_(wanted)

    @torch.no_grad()
    def bounds(self) -> Bounds:
        """The largest scale, and one over the smallest."""
        return from_log_scales(self._log_scale())

    @torch.no_grad()
    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """The same everywhere; the image is that of every channel by itself."""
        bounds, log_scale = self.bounds(), in_float64(self._log_scale())
        bias, scale = in_float64(self.bias), log_scale.exp()
        image = (
            scaled(domain, scale, bias * scale)
            if direction == "transform"
            else scaled(domain, 1 / scale, -bias)
        ).image
        return LocalBounds(bounds, image)

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Refuse other numbers of channels, and any use before initialization."""
        require_channels(self, x, self.bias.numel(), how)
        super()._prepare(x, how)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        log_scale = self._log_scale()
        y = (x + spread(self.bias, x)) * spread(log_scale, x).exp()
        return y, how.log_det(x, lambda: summed_over_pixels(log_scale.sum(), x))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        log_scale = self._log_scale()
        x = y * (-spread(log_scale, y)).exp() - spread(self.bias, y)
        return x, how.log_det(y, lambda: -summed_over_pixels(log_scale.sum(), y))

    def _log_scale(self) -> Tensor:
        bound, free = self.log_scale_bound, self.log_scale
        bounded = free if bound is None else bound * torch.tanh(free / bound)
        return log_added(bounded, self.epsilon)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of every channel over all ranks."""
        try:
            return channel_moments(x)
        except ValueError as error:
            raise ValueError(f"ActNorm: {error}") from None
