"""Proven upper bounds of the l2 norm of matrices and of zero-padded convolutions, in float64."""

import math

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_core.lipschitz.fourier import fourier_norm
from flow_core.lipschitz.gram import (
    EIGENVALUE_SIDE,
    EPS,
    Kernel,
    all_eigenvalues_bound,
    cholesky_bound,
    narrow_side_last,
    product_rounding,
    zero_padded_gram,
)
from flow_core.lipschitz.operators import ConvOperator, MatrixOperator
from flow_core.lipschitz.spectral import golub_kahan_cycle, normalize

EXACT_SIDE = 3072
ESTIMATE_STEPS = 40
ESTIMATE_CYCLES = 4
ESTIMATE_RESIDUAL = 2e-3


@torch.no_grad()
def matrix_norm_exact(weight: Float[Tensor, "rows columns"]) -> float:
    """The spectral norm of a matrix, rounded up: at most 0.1 % above it.

    Raises:
        ValueError: The weight is not finite.
    """
    matrix = finite(weight).unsqueeze(-1).unsqueeze(-1)
    return conv_norm_exact(matrix, (1, 1))


@torch.no_grad()
def conv_norm_exact(
    kernel: Float[Tensor, "out_channels in_channels size size"], map_size: tuple[int, int]
) -> float:
    """The norm of the zero-padded convolution, rounded up: at most 0.1 % above it.

    From the Gram matrix of side min(in_channels, out_channels) * height * width, whose memory and
    time grow with the square and the cube of that.

    Raises:
        ValueError: The kernel is not finite, or no square of odd size.
    """
    narrow = narrow_side_last(valid_kernel(kernel, map_size))
    largest = float(narrow.abs().max())
    if largest == 0.0:
        return 0.0
    narrow = narrow / largest
    gram = zero_padded_gram(narrow, map_size)
    if len(gram) <= EIGENVALUE_SIDE:
        bound = all_eigenvalues_bound(gram)
    else:
        bound = cholesky_bound(gram, norm_estimate(narrow, map_size) ** 2)
    return largest * math.sqrt(bound + product_rounding(narrow)) * (1 + 8 * EPS)


@torch.no_grad()
def conv_norm_fft(
    kernel: Float[Tensor, "out_channels in_channels size size"], map_size: tuple[int, int]
) -> float:
    """An upper bound of the norm of the zero-padded convolution from circular convolutions.

    Its time grows with the area of the map, not with its cube. See `fourier.fourier_norm`.

    Raises:
        ValueError: The kernel is not finite, or no square of odd size.
    """
    checked = valid_kernel(kernel, map_size)
    largest = float(checked.abs().max())
    return 0.0 if largest == 0.0 else largest * fourier_norm(checked / largest, map_size)


def conv_certificate(
    kernel: Float[Tensor, "out_channels in_channels size size"], map_size: tuple[int, int]
) -> float:
    """A proven upper bound: exact where the Gram matrix has side <= 3072, else by Fourier.

    A 1x1 kernel is a matrix, whatever the map.

    Raises:
        ValueError: The kernel is not finite, or no square of odd size.
    """
    if kernel.shape[-1] == 1:
        return matrix_norm_exact(kernel.flatten(1))
    if min(kernel.shape[:2]) * map_size[0] * map_size[1] <= EXACT_SIDE:
        return conv_norm_exact(kernel, map_size)
    return conv_norm_fft(kernel, map_size)


def norm_estimate(kernel: Kernel, map_size: tuple[int, int]) -> float:
    """The norm from below, by Golub-Kahan-Lanczos from a fixed random start."""
    operator = (
        MatrixOperator(kernel.flatten(1).unsqueeze(0))
        if kernel.shape[-1] == 1 and map_size == (1, 1)
        else ConvOperator(kernel, map_size)
    )
    columns = kernel.shape[1] * map_size[0] * map_size[1]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, columns, generator=generator, dtype=torch.float64).to(kernel.device)
    v, estimate = normalize(start), 0.0
    for _ in range(ESTIMATE_CYCLES):
        u, v = golub_kahan_cycle(operator, v, ESTIMATE_STEPS)
        estimate = float(torch.linalg.vector_norm(operator.apply(v)))
        residual = torch.linalg.vector_norm(operator.adjoint(u) - estimate * v)
        if float(residual) <= ESTIMATE_RESIDUAL * estimate:
            break
    return estimate


def valid_kernel(
    kernel: Float[Tensor, "out_channels in_channels height width"], map_size: tuple[int, int]
) -> Kernel:
    """The kernel in float64, without taps that only ever meet the padding of such maps.

    Raises:
        ValueError: The kernel is not finite, or no square of odd size.
    """
    height, width = kernel.shape[-2:]
    if height != width or height % 2 == 0:
        raise ValueError(f"certificate: expected a square odd kernel, got {height}x{width}")
    wide = finite(kernel)
    offsets = torch.arange(height, device=wide.device) - height // 2
    rows, columns = (offsets.abs() < side for side in map_size)
    return wide * (rows[:, None] & columns)


def finite(weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The weight in float64, on a device that has it.

    Raises:
        ValueError: The weight has entries that are not finite.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("certificate: expected finite weights, got nan or inf; the model diverged")
    return in_float64(weight)
