"""The exponential of a convolution."""

import math
from typing import final

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.convolution import same_conv2d
from flow_core.lipschitz import LipschitzConv2d
from flow_core.passes import Pass

_LARGEST = 50.0


@final
class ExponentialConv2d(Bijection):
    """y = exp(K)·x = Σ Kⁿx/n! with a zero-padded convolution K of bounded spectral norm.

    log|det ∂y/∂x| = tr K = h·w·Σ of the centre tap's diagonal, and the inverse is exp(−K). The
    series ends where its remainder is below rounding: |Σ_{n>N}| ≤ 2·κ^(N+1)/(N+1)! for N ≥ 2κ, with
    κ = √(‖K‖₁‖K‖_∞) ≥ ‖K‖ from sums of taps, whatever has happened to the weights.
    Source: Hoogeboom et al. 2020 (The Convolution Exponential).

    Args:
        channels: Channels of the images.
        kernel_size: Side of the kernel, odd.
        map_size: Height and width of the images.
        coeff: Bound on ‖K‖, below 1; kept by `update_lipschitz`.
    """

    def __init__(
        self, channels: int, kernel_size: int, map_size: tuple[int, int], *, coeff: float = 0.9
    ) -> None:
        super().__init__((channels, *map_size))
        self.conv = LipschitzConv2d(
            channels, channels, kernel_size, map_size, coeff=coeff, bias=False
        )

    def bounds(self) -> Bounds:
        """e^‖K‖ both ways, with a proven bound of ‖K‖."""
        most = math.exp(self.conv.certificate()) * (1 + 1e-9)
        return Bounds(most, most)

    def terms(self, dtype: torch.dtype) -> int:
        """Terms of the series after which the remainder is below rounding."""
        return _terms(self._kernel(), dtype)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        kernel = self._kernel()
        y = _exponential(kernel, x)
        return y, how.log_det(x, lambda: self._trace(kernel).expand(x.shape[0]))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        kernel = self._kernel()
        x = _exponential(-kernel, y)
        return x, how.log_det(y, lambda: -self._trace(kernel).expand(y.shape[0]))

    def _kernel(self) -> Tensor:
        return self.conv.effective()[0]

    def _trace(self, kernel: Tensor) -> Tensor:
        centre = kernel.shape[-1] // 2
        return math.prod(self.conv.map_size) * kernel[:, :, centre, centre].trace()


def _exponential(kernel: Tensor, x: Tensor) -> Tensor:
    """exp(K)·x, by its series."""
    total = term = x
    for n in range(1, _terms(kernel, x.dtype) + 1):
        term = same_conv2d(term, kernel) / n
        total = total + term
    return total


def _terms(kernel: Tensor, dtype: torch.dtype) -> int:
    bound = _norm_bound(kernel)
    remainder, count = 2.0 * bound, 0
    while remainder > torch.finfo(dtype).eps or count < 2 * bound:
        count += 1
        remainder *= bound / (count + 1)
    return count


@torch.no_grad()
def _norm_bound(kernel: Float[Tensor, "channels channels size size"]) -> float:
    """√(‖K‖₁‖K‖_∞) ≥ ‖K‖₂ of the zero-padded convolution.

    Raises:
        ValueError: If the kernel is not finite, or so large that its exponential is not.
    """
    magnitudes = in_float64(kernel).abs().sum((2, 3))
    bound = float((magnitudes.sum(0).max() * magnitudes.sum(1).max()).sqrt())
    if not bound < _LARGEST:
        raise ValueError(
            f"expected a kernel of norm about one, got sums of taps of {bound:.3g}; call "
            "update_lipschitz after every optimizer step"
        )
    return bound
