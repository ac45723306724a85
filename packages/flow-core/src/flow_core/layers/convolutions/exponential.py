"""The exponential of a convolution."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection, Context
from flow_core.convolution import same_conv2d
from flow_core.lipschitz import LipschitzConv2d
from flow_core.rounding import without_rounding

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
        super().__init__()
        self.conv = LipschitzConv2d(
            channels, channels, kernel_size, map_size, coeff=coeff, bias=False
        )

    @without_rounding
    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """exp(K)·x."""
        return self._exponential(x, self._kernel())

    @without_rounding
    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """exp(−K)·y."""
        return self._exponential(y, -self._kernel())

    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """exp(K)·x and tr K."""
        return self.transform(x, context=context), self._trace(x)

    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """exp(−K)·y and −tr K."""
        return self.inverse(y, context=context), -self._trace(y)

    def terms(self, dtype: torch.dtype) -> int:
        """Terms of the series after which the remainder is below rounding."""
        bound = _norm_bound(self._kernel())
        remainder, count = 2.0 * bound, 0
        while remainder > torch.finfo(dtype).eps or count < 2 * bound:
            count += 1
            remainder *= bound / (count + 1)
        return count

    def _kernel(self) -> Tensor:
        return self.conv.effective()[0]

    def _exponential(self, x: Tensor, kernel: Tensor) -> Tensor:
        self._check(x)
        total = term = x
        for n in range(1, self.terms(x.dtype) + 1):
            term = same_conv2d(term, kernel) / n
            total = total + term
        return total

    @without_rounding
    def _trace(self, x: Tensor) -> Tensor:
        kernel = self._kernel()
        centre = kernel.shape[-1] // 2
        pixels = math.prod(self.conv.map_size)
        return (pixels * kernel[:, :, centre, centre].trace()).expand(x.shape[0])

    def _check(self, x: Tensor) -> None:
        expected = (self.conv.weight.shape[0], *self.conv.map_size)
        if x.shape[1:] != expected:
            raise ValueError(f"expected images of shape {expected}, got a batch {tuple(x.shape)}")


@torch.no_grad()
def _norm_bound(kernel: Float[Tensor, "channels channels size size"]) -> float:
    """√(‖K‖₁‖K‖_∞) ≥ ‖K‖₂ of the zero-padded convolution.

    Raises:
        ValueError: If the kernel is not finite, or so large that its exponential is not.
    """
    magnitudes = kernel.double().abs().sum((2, 3))
    bound = float((magnitudes.sum(0).max() * magnitudes.sum(1).max()).sqrt())
    if not bound < _LARGEST:
        raise ValueError(
            f"expected a kernel of norm about one, got sums of taps of {bound:.3g}; call "
            "update_lipschitz after every optimizer step"
        )
    return bound
