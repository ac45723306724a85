"""Per-channel scale and shift, standardised by the first batch."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Context
from flow_core.layers.data_dependent import DataDependent
from flow_core.statistics import channel_moments

# A scale at its bound would learn no more.
_NEAR_ONE = 0.99


@final
class ActNorm(DataDependent):
    """y = (x + b)·e^w with one b and w per channel, on `(batch, c)` or `(batch, c, h, w)`.

    log|det ∂y/∂x| = (values per channel)·Σ w. Initialization sets b = −mean and
    w = −½·log max(variance, floor), so that the first batch leaves standardised; the floor keeps
    channels that hardly vary from being blown up. Source: Kingma & Dhariwal 2018, §3.1; the
    parametrisation and the floor of 0.2 are those of Residual Flows (Chen et al. 2019).

    With a `log_scale_bound` c the scale is e^(c·tanh(w/c)), within [e^(−c), e^c] whatever training
    does. Source: Behrmann et al. 2021, §B.

    Args:
        channels: Size of dimension 1.
        variance_floor: Smallest variance that is scaled to one.
        log_scale_bound: c in nats, or None for scales without a bound.
    """

    def __init__(
        self,
        channels: int,
        *,
        variance_floor: float = 0.2,
        log_scale_bound: float | None = None,
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
        self.variance_floor = variance_floor
        self.log_scale_bound = log_scale_bound

    def extra_repr(self) -> str:
        """Size shown in the representation of a model."""
        return f"channels={self.bias.numel()}"

    def fit(self, x: Tensor, *, context: Context = None) -> None:
        """Set b and w from the mean and unbiased variance over all ranks."""
        self._check(x)
        mean, variance = channel_moments(x)
        self.bias.copy_(-mean)
        wanted = -0.5 * variance.clamp(min=self.variance_floor).log()
        bound = self.log_scale_bound
        if bound is not None:
            within = (wanted / bound).clamp(-_NEAR_ONE, _NEAR_ONE)
            wanted = bound * torch.atanh(within)
        self.log_scale.copy_(wanted)

    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """(x + b)·e^w."""
        self._require(x)
        return (x + self._spread(self.bias, x)) * self._spread(self._log_scale(), x).exp()

    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """y·e^(−w) − b."""
        self._require(y)
        return y * (-self._spread(self._log_scale(), y)).exp() - self._spread(self.bias, y)

    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """(x + b)·e^w and Σ w over all values of a sample."""
        return self.transform(x, context=context), self._log_det(x)

    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """y·e^(−w) − b and −Σ w over all values of a sample."""
        return self.inverse(y, context=context), -self._log_det(y)

    def _log_det(self, x: Tensor) -> Tensor:
        values_per_channel = math.prod(x.shape[2:])
        return (values_per_channel * self._log_scale().sum()).expand(x.shape[0])

    def _log_scale(self) -> Tensor:
        bound = self.log_scale_bound
        return self.log_scale if bound is None else bound * torch.tanh(self.log_scale / bound)

    def _spread(self, values: Tensor, x: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (x.ndim - 2))

    def _require(self, x: Tensor) -> None:
        self._check(x)
        self.require_initialized()

    def _check(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[1] != self.bias.numel():
            raise ValueError(
                f"expected {self.bias.numel()} channels in dimension 1, got shape {tuple(x.shape)}"
            )
