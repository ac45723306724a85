"""Zero-padded convolutions as dense matrices, for their exact determinant and inverse."""

import math
from functools import partial
from typing import final

import torch
from flow_logdet import log_abs_det
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds, ratio
from flow_core.convolution import same_conv2d
from flow_core.layers.convolutions.conv1x1 import over_pixels
from flow_core.layers.matrices import matrix_bounds, random_orthogonal
from flow_core.lipschitz.certify import conv_certificate
from flow_core.passes import Pass

_INITIAL_GAIN = 0.01
LARGEST_MATRIX = 4096


class DenseConv2d(Bijection):
    """y = W∗x + b, zero-padded to the same size, with log-determinant and inverse of the matrix.

    log|det ∂y/∂x| by LU factorisation of the matrix of all values of an image, which costs
    O((c·h·w)³) once a call: for small images and for tests of larger ones. 1x1 kernels cost O(c³).

    Args:
        channels: Channels of the images.
        kernel_size: Side of the kernel, odd.
        map_size: Height and width of the images.
    """

    def __init__(self, channels: int, kernel_size: int, map_size: tuple[int, int]) -> None:
        super().__init__((channels, *map_size))
        if min(channels, kernel_size, *map_size) < 1 or kernel_size % 2 == 0:
            raise ValueError(
                "expected positive sizes and an odd kernel_size, got "
                f"channels={channels}, kernel_size={kernel_size}, map_size={map_size}"
            )
        self.map_size = map_size
        self.weight = nn.Parameter(_initial_kernel(channels, kernel_size))
        self.bias = nn.Parameter(torch.zeros(channels))

    def extra_repr(self) -> str:
        """Sizes shown in the representation of a model."""
        channels, _, size, _ = self.weight.shape
        return f"channels={channels}, kernel_size={size}, map_size={self.map_size}"

    @torch.no_grad()
    def bounds(self) -> Bounds:
        """The largest singular value of the matrix and one over the smallest, in float64.

        Of more than 4096 values the matrix is not made: ‖W‖ is certified, and ‖W⁻¹‖ is at most
        1/(1 − ‖W − I‖) where ‖W − I‖ < 1 and infinite elsewhere, as none is known.
        """
        weight = in_float64(self.weight)
        if weight.shape[-1] == 1:
            return matrix_bounds(weight.flatten(1))
        if math.prod((len(weight), *self.map_size)) <= LARGEST_MATRIX:
            return matrix_bounds(dense_matrix(weight, self.map_size))
        rest = weight - nn.init.dirac_(torch.empty_like(weight))
        away = conv_certificate(rest, self.map_size)
        return Bounds(conv_certificate(weight, self.map_size), ratio(1.0, 1 - away))

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        y = same_conv2d(x, self.weight, self.bias)
        return y, how.log_det(x, lambda: self._log_det(self.weight, x))

    def _solve(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """The solution of W∗x = y − b, and −log|det W|."""
        x = self._solution(y - self.bias.view(-1, 1, 1))
        return x, how.log_det(y, lambda: -self._log_det(self.weight, y))

    def _log_det(self, weight: Tensor, x: Tensor) -> Tensor:
        """log|det| of the convolution with a kernel, for every image."""
        return dense_log_abs_det(weight, self.map_size).expand(x.shape[0])

    def _solution(self, centred: Tensor) -> Tensor:
        """The x with W∗x = y − b."""
        if self.weight.shape[-1] == 1:
            matrix = self.weight.flatten(1)
            return over_pixels(partial(torch.linalg.solve, matrix), centred)
        matrix = dense_matrix(self.weight, self.map_size)
        solved: Tensor = torch.linalg.solve(matrix, centred.flatten(1).mT)
        return solved.mT.reshape(centred.shape)


@final
class ExactConv2d(DenseConv2d):
    """A zero-padded convolution trained on its exact log-determinant."""

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._solve(y, how)


def dense_matrix(
    weight: Float[Tensor, "channels channels size size"], map_size: tuple[int, int]
) -> Float[Tensor, "values values"]:
    """The matrix of `same_conv2d` on row-major images."""
    shape = (weight.shape[0], *map_size)
    count = math.prod(shape)
    unit = torch.eye(count, dtype=weight.dtype, device=weight.device)
    return same_conv2d(unit.view(count, *shape), weight).flatten(1).mT


def dense_log_abs_det(
    weight: Float[Tensor, "channels channels size size"], map_size: tuple[int, int]
) -> Float[Tensor, ""]:
    """log|det| of `same_conv2d` in nats."""
    if weight.shape[-1] == 1:
        return math.prod(map_size) * log_abs_det(weight.flatten(1))
    return log_abs_det(dense_matrix(weight, map_size))


def _initial_kernel(channels: int, kernel_size: int) -> Tensor:
    """A random rotation where the kernel is a matrix, else the identity and a little noise."""
    if kernel_size == 1:
        return random_orthogonal(channels)[:, :, None, None]
    weight = torch.empty(channels, channels, kernel_size, kernel_size)
    nn.init.xavier_normal_(weight, gain=_INITIAL_GAIN)
    return weight + nn.init.dirac_(torch.empty_like(weight))
