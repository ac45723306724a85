"""Maps of single values: logit, fixed normalisation, learned scale and shift."""

import math
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection, Context
from flow_core.rounding import without_rounding
from flow_core.statistics import true_on_all_ranks


@final
class LogitTransform(Bijection):
    """y = logit(s) with s = α + (1 − 2α)·x, from [0, 1] to the real line.

    log|dy/dx| = log(1 − 2α) − log s − log(1 − s). 1 − s is formed as α + (1 − 2α)·(1 − x), which is
    exact near x = 1. `Invert(LogitTransform(0.0))` is the sigmoid. Values outside
    [−α/(1 − 2α), 1 + α/(1 − 2α)] give NaN: looking for them would stop the device at every pass,
    so `initialize` looks once. Source: Dinh et al. 2017, §4.1.

    Args:
        alpha: Distance kept from 0 and 1; at least 0, below 1/2.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"expected 0 <= alpha < 0.5, got {alpha}")
        self.alpha = alpha

    def extra_repr(self) -> str:
        """α shown in the representation of a model."""
        return f"alpha={self.alpha}"

    def initialize(self, x: Tensor, *, context: Context = None) -> Tensor:
        """Look once whether the data lie in [0, 1], and transform them.

        Raises:
            ValueError: If a value lies outside [0, 1].
        """
        if not true_on_all_ranks((x >= 0) & (x <= 1)):
            raise ValueError(
                f"expected values in [0, 1], got others here or on another rank, the first of "
                f"them here {x[~((x >= 0) & (x <= 1))].flatten()[:3].tolist()}; scale the data, "
                "for integers with Dequantized"
            )
        return self.transform(x, context=context)

    @without_rounding
    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """logit(α + (1 − 2α)·x)."""
        log_s, log_t = self._logs(x)
        return log_s - log_t

    @without_rounding
    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """(sigmoid(y) − α) / (1 − 2α)."""
        return (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha)

    @without_rounding
    def transform_and_log_det(
        self,
        x: Tensor,
        *,
        context: Context = None,
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """logit(s) and Σ log(1 − 2α) − log s − log(1 − s)."""
        log_s, log_t = self._logs(x)
        return log_s - log_t, (self._log_slope() - log_s - log_t).flatten(1).sum(1)

    @without_rounding
    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """The inverse and Σ log σ(y) + log σ(−y) − log(1 − 2α)."""
        terms = F.logsigmoid(y) + F.logsigmoid(-y) - self._log_slope()
        return self.inverse(y, context=context), terms.flatten(1).sum(1)

    def _logs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - 2 * self.alpha
        return (self.alpha + slope * x).log(), (self.alpha + slope * (1 - x)).log()

    def _log_slope(self) -> float:
        return math.log1p(-2 * self.alpha)


@final
class Normalize(Bijection):
    """y = (x − mean) / std with fixed numbers per channel, on `(batch, c)` or `(batch, c, h, w)`.

    log|det ∂y/∂x| = −(values per channel)·Σ log std.

    Args:
        mean: One number per channel.
        std: One positive number per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        finite = all(map(math.isfinite, (*mean, *std)))
        if len(mean) != len(std) or not mean or not finite or min(std) <= 0:
            raise ValueError(
                "expected as many positive standard deviations as means, all finite, got "
                f"mean={list(mean)}, std={list(std)}"
            )
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.get_default_dtype()))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.get_default_dtype()))

    def extra_repr(self) -> str:
        """Size shown in the representation of a model."""
        return f"channels={self.mean.numel()}"

    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """(x − mean) / std."""
        return (x - self._spread(self.mean, x)) / self._spread(self.std, x)

    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """std·y + mean."""
        return y * self._spread(self.std, y) + self._spread(self.mean, y)

    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """(x − mean) / std and −Σ log std over all values of a sample."""
        return self.transform(x, context=context), -self._log_std(x)

    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """std·y + mean and Σ log std over all values of a sample."""
        return self.inverse(y, context=context), self._log_std(y)

    def _log_std(self, x: Tensor) -> Tensor:
        return (math.prod(x.shape[2:]) * self.std.log().sum()).expand(x.shape[0])

    def _spread(self, values: Tensor, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != values.numel():
            raise ValueError(
                f"expected {values.numel()} channels in dimension 1, got shape {tuple(x.shape)}"
            )
        return values.view(-1, *(1,) * (x.ndim - 2))


@final
class Affine(Bijection):
    """y = x·e^s + t with a learned s and t for every value of a sample, the identity at first.

    In front of a standard normal base it makes a learned diagonal Gaussian. log|det ∂y/∂x| = Σ s.

    Args:
        shape: Shape of a sample.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(tuple(shape)))
        self.shift = nn.Parameter(torch.zeros(tuple(shape)))

    def extra_repr(self) -> str:
        """Shape shown in the representation of a model."""
        return f"shape={tuple(self.shift.shape)}"

    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """x·e^s + t."""
        self._check(x)
        return x * self.log_scale.exp() + self.shift

    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """(y − t)·e^(−s)."""
        self._check(y)
        return (y - self.shift) * (-self.log_scale).exp()

    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """x·e^s + t and Σ s."""
        return self.transform(x, context=context), self.log_scale.sum().expand(x.shape[0])

    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """(y − t)·e^(−s) and −Σ s."""
        return self.inverse(y, context=context), -self.log_scale.sum().expand(y.shape[0])

    def _check(self, x: Tensor) -> None:
        if x.shape[1:] != self.shift.shape:
            raise ValueError(
                f"expected samples of shape {tuple(self.shift.shape)}, got a batch {tuple(x.shape)}"
            )
