"""Convolutions and matrices that learn their inverse beside themselves."""

# ruff: noqa: ANN401 (what autograd passes to a Function has no type)

from typing import Any, cast, final

import torch
from flow_solvers import without_autocast
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.grad import conv2d_weight

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.convolution import is_matrix, same_conv2d, same_conv2d_transpose
from flow_core.layers.convolutions.dense import DenseConv2d
from flow_core.passes import Pass


@final
class SelfNormConv2d(DenseConv2d):
    """y = W∗x + b with a learned R ≈ W⁻¹, also a convolution.

    What it does follows from `Settings.mode`. exact: as `ExactConv2d`. surrogate, which a
    `TrainingSurrogate` uses: the gradient of log|det| is taken from R, ∂/∂W = T(R)⊙m with T the
    transposed convolution and m the number of pixels that see a tap. approximate_inverse: the
    inverse is R∗(y − b), and its log-determinant log|det R|: the density of what is sampled so is
    exact, that of other samples is not. Source: Keller et al. 2021, eqs. 6-12.

    Args:
        channels: Channels of the images.
        kernel_size: Side of both kernels, odd.
        map_size: Height and width of the images.
    """

    def __init__(self, channels: int, kernel_size: int, map_size: tuple[int, int]) -> None:
        super().__init__(channels, kernel_size, map_size)
        self.inverse_weight = nn.Parameter(transposed(self.weight.detach()))

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        if how.settings.mode != "surrogate" or not how.wants_log_det:
            return super()._transform(x, how)
        if how.collector is not None:
            how.collector.collect(self, x)
        y = cast(Tensor, _HalfGradients.apply(x, self.weight, self.inverse_weight, self.bias))
        return y, self._stand_in().expand(x.shape[0])

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        if how.settings.mode != "approximate_inverse":
            return self._solve(y, how)
        x = same_conv2d(y - self.bias.view(-1, 1, 1), self.inverse_weight)
        return x, how.log_det(y, lambda: self._log_det(self.inverse_weight, y))

    def _stand_in(self) -> Tensor:
        """0 up to rounding, with half of the gradient of log|det W| for W and −log|det R| for R."""
        weight, inverse = self.weight, self.inverse_weight
        counts = tap_counts(weight, self.map_size)
        by_weight = transposed(inverse.detach()) * counts
        by_inverse = transposed(weight.detach()) * counts
        return 0.5 * ((weight * by_weight).sum() - (inverse * by_inverse).sum())


@final
class SelfNormLinear(Bijection):
    """y = W·x + b on vectors with a learned R ≈ W⁻¹; the identity at first.

    As `SelfNormConv2d`, of which it is the case of one pixel. Source: Keller et al. 2021, §3.1.

    Args:
        features: Size of the vectors.
    """

    def __init__(self, features: int) -> None:
        super().__init__((features,))
        self.conv = SelfNormConv2d(features, 1, (1, 1))
        with torch.no_grad():
            for weight in (self.conv.weight, self.conv.inverse_weight):
                weight.copy_(torch.eye(features)[:, :, None, None])

    def bounds(self) -> Bounds:
        """Those of W; the learned inverse of the mode approximate_inverse is another map."""
        return self.conv.bounds()

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._as_pixels(x, how)

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._as_pixels(y, how)

    def _as_pixels(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """The convolution of images of one pixel, in the direction of the pass."""
        y, log_det = self.conv(x[:, :, None, None], how=how)
        return y.flatten(1), log_det


def transposed(kernel: Tensor) -> Tensor:
    """The kernel of the transposed convolution."""
    return kernel.transpose(0, 1).flip(2, 3)


def tap_counts(
    kernel: Float[Tensor, "_ _ size size"], map_size: tuple[int, int]
) -> Float[Tensor, "size size"]:
    """For every tap, the number of pixels at which it meets another pixel and not the padding.

    Counted where the kernel is and in its dtype: a copy to the device would stop it at every pass.
    """
    size = kernel.shape[-1]
    reach = (torch.arange(size, dtype=kernel.dtype, device=kernel.device) - size // 2).abs()
    down, across = ((side - reach).clamp(min=0) for side in map_size)
    return down[:, None] * across


class _HalfGradients(Function):
    """W∗x + b, with half of the gradient for W and half for R, as if R⁻¹ were W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, inverse: Tensor, bias: Tensor) -> Tensor:
        moved = same_conv2d(x, weight)
        ctx.save_for_backward(x, weight, inverse, moved)
        return moved + bias.view(-1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a TrainingSurrogate is no function that has a second derivative: leave out "
                "create_graph, or differentiate log_prob, which is exact"
            )
        x, weight, inverse, moved = ctx.saved_tensors
        with without_autocast(x):
            by_x = same_conv2d_transpose(cotangents[0], weight)
            by_weight = _by_kernel(x, weight, cotangents[0])
            by_inverse = _by_kernel(moved, inverse, by_x)
        return by_x, 0.5 * by_weight, -0.5 * by_inverse, cotangents[0].sum((0, 2, 3))


def _by_kernel(x: Tensor, weight: Tensor, along: Tensor) -> Tensor:
    """Gradient of ⟨along, W∗x⟩ by W."""
    if is_matrix(weight, x):
        return (along.flatten(1).mT @ x.flatten(1)).view(weight.shape)
    padding = weight.shape[-1] // 2
    return cast(Tensor, conv2d_weight(x, weight.shape, along, padding=padding))  # type: ignore[no-untyped-call]
