"""Certificates: never below the operator norm, and as close to it as promised."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flow_core.lipschitz import (
    conv_certificate,
    conv_norm_exact,
    conv_norm_fft,
    matrix_norm_exact,
)
from flow_core.lipschitz.gram import EIGENVALUE_SIDE, cholesky_bound, zero_padded_gram
from torch import Tensor
from torch.nn import functional

EXACT_LOOSENESS = 1.002
SHAPES = [
    (2, 3, 1, (4, 4)),
    (3, 2, 3, (3, 3)),
    (6, 4, 5, (4, 7)),
    (2, 5, 3, (8, 6)),
    (3, 2, 5, (2, 3)),
    (1, 1, 7, (3, 3)),
    (6, 3, 3, (8, 8)),
    (2, 1, 3, (16, 16)),
    (1, 2, 5, (16, 16)),
]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_kernel(out: int, inputs: int, size: int) -> Tensor:
    return torch.randn(out, inputs, size, size, generator=generator(0))


def smooth_kernel(out: int, inputs: int, size: int) -> Tensor:
    low_rank = torch.randn(out, 1, generator=generator(1)) @ torch.randn(1, inputs)
    return 0.1 * random_kernel(out, inputs, size) + low_rank[:, :, None, None]


def box_kernel(out: int, inputs: int, size: int) -> Tensor:
    return torch.ones(out, inputs, size, size)


def checkered_kernel(out: int, inputs: int, size: int) -> Tensor:
    signs = (-1.0) ** torch.arange(size)
    return box_kernel(out, inputs, size) * torch.outer(signs, signs)


KERNELS = [random_kernel, smooth_kernel, box_kernel, checkered_kernel]


def dense_operator(kernel: Tensor, map_size: tuple[int, int]) -> Tensor:
    channels, (height, width) = kernel.shape[1], map_size
    units = torch.eye(channels * height * width, dtype=torch.float64)
    maps = units.view(-1, channels, height, width)
    return functional.conv2d(maps, kernel.double(), padding=kernel.shape[-1] // 2).flatten(1).T


def dense_norm(kernel: Tensor, map_size: tuple[int, int]) -> Tensor:
    """uᵀ A v at the top singular pair: the norm, with its gradient in the kernel."""
    operator = dense_operator(kernel, map_size)
    with torch.no_grad():
        left, _, right = torch.linalg.svd(operator, full_matrices=False)
    top: Tensor = left[:, 0] @ operator @ right[0]
    return top


def sparse_norm(kernel: Tensor, map_size: tuple[int, int]) -> float:
    out, inputs, size, _ = kernel.shape
    weight, area = kernel.double(), map_size[0] * map_size[1]

    def forward(x: object) -> object:
        maps = torch.as_tensor(x).view(1, inputs, *map_size)
        return functional.conv2d(maps, weight, padding=size // 2).flatten().numpy()

    def adjoint(y: object) -> object:
        maps = torch.as_tensor(y).view(1, out, *map_size)
        return functional.conv_transpose2d(maps, weight, padding=size // 2).flatten().numpy()

    shape = (out * area, inputs * area)
    linalg: Any = importlib.import_module("scipy.sparse.linalg")  # untyped
    operator = linalg.LinearOperator(shape, matvec=forward, rmatvec=adjoint, dtype="float64")
    found = linalg.svds(operator, k=1, tol=1e-10, return_singular_vectors=False, random_state=0)
    return float(found[0])


@pytest.mark.parametrize("make", KERNELS)
@pytest.mark.parametrize(("out", "inputs", "size", "map_size"), SHAPES)
def test_bounds_hold_and_the_exact_one_is_tight(
    make: Callable[[int, int, int], Tensor],
    out: int,
    inputs: int,
    size: int,
    map_size: tuple[int, int],
) -> None:
    kernel = make(out, inputs, size)
    true = float(dense_norm(kernel, map_size))
    # The dense float64 SVD has a rounding of its own.
    assert true * (1 - 1e-13) <= conv_norm_exact(kernel, map_size) <= true * EXACT_LOOSENESS
    fourier = conv_norm_fft(kernel, map_size)
    assert true * (1 - 1e-13) <= fourier
    if min(map_size) >= 16:
        assert fourier <= true * (1.04 if size <= 3 else 1.15)


@pytest.mark.parametrize(("out", "inputs", "size"), [(5, 3, 3), (3, 2, 5)])
def test_gram_matrix_of_the_zero_padded_operator(out: int, inputs: int, size: int) -> None:
    kernel = random_kernel(out, inputs, size).double()
    for map_size in [(1, 1), (2, 5), (6, 4)]:
        operator = dense_operator(kernel, map_size)
        torch.testing.assert_close(zero_padded_gram(kernel, map_size), operator.T @ operator)


@pytest.mark.parametrize("make", KERNELS)
@pytest.mark.parametrize(("out", "inputs", "size", "side"), [(6, 4, 3, 16), (2, 3, 5, 20)])
def test_cholesky_path_holds_on_larger_sides(
    make: Callable[[int, int, int], Tensor], out: int, inputs: int, size: int, side: int
) -> None:
    kernel = make(out, inputs, size)
    assert EIGENVALUE_SIDE < min(out, inputs) * side * side <= 3072
    true = sparse_norm(kernel, (side, side))
    assert true * (1 - 1e-9) <= conv_certificate(kernel, (side, side)) <= true * EXACT_LOOSENESS


@pytest.mark.parametrize("make", [random_kernel, smooth_kernel, box_kernel])
@pytest.mark.parametrize(("out", "inputs", "size", "loosest"), [(16, 8, 3, 1.04), (4, 4, 5, 1.15)])
def test_fourier_path_on_maps_of_side_32(
    make: Callable[[int, int, int], Tensor], out: int, inputs: int, size: int, loosest: float
) -> None:
    kernel = make(out, inputs, size)
    true = sparse_norm(kernel, (32, 32))
    assert true * (1 - 1e-9) <= conv_certificate(kernel, (32, 32)) <= true * loosest


def circular_norm(kernel: Tensor, side: int, twist: tuple[float, float]) -> Tensor:
    size = kernel.shape[-1]
    waves = [
        torch.polar(
            torch.ones((), dtype=torch.float64),
            2
            * math.pi
            / side
            * torch.outer(torch.arange(side).double() + shift, torch.arange(size).double()),
        )
        for shift in twist
    ]
    symbol = torch.einsum("ocab,fa,gb->fgoc", kernel.to(torch.complex128), *waves)
    norms: Tensor = torch.linalg.matrix_norm(symbol, 2)
    return norms.max()


def looser_kernel(channels: int, size: int, side: int, steps: int) -> Tensor:
    """Gradient ascent on the gap between the least circular norm and the true one."""
    kernel = random_kernel(channels, channels, size).double()
    torus = side + size // 2
    for _ in range(steps):
        kernel = (kernel / kernel.norm()).requires_grad_()
        twists = [(a, b) for a in (0.0, 0.5) for b in (0.0, 0.5)]
        circular = torch.stack([circular_norm(kernel, torus, twist) for twist in twists]).min()
        gap = circular / dense_norm(kernel, (side, side))
        (gradient,) = torch.autograd.grad(gap, kernel)
        kernel = kernel.detach() + 0.1 * gradient / gradient.norm()
    return kernel


@pytest.mark.parametrize(("channels", "size", "side"), [(1, 3, 8), (2, 3, 5), (1, 5, 8)])
def test_bounds_hold_for_kernels_found_by_gradient_ascent(
    channels: int, size: int, side: int
) -> None:
    kernel = looser_kernel(channels, size, side, steps=50)
    true = float(dense_norm(kernel, (side, side)))
    assert true * (1 - 1e-13) <= conv_norm_exact(kernel, (side, side)) <= true * EXACT_LOOSENESS
    assert conv_norm_fft(kernel, (side, side)) > 1.01 * true  # the search found a hard kernel


@pytest.mark.parametrize(("size", "loosest"), [(3, 1.04), (5, 1.15)])
def test_looseness_for_kernels_found_by_gradient_ascent(size: int, loosest: float) -> None:
    kernel = looser_kernel(1, size, 16, steps=25)
    true = float(dense_norm(kernel, (16, 16)))
    assert true * (1 - 1e-13) <= conv_norm_fft(kernel, (16, 16)) <= true * loosest
    assert conv_certificate(kernel, (16, 16)) <= true * EXACT_LOOSENESS


@pytest.mark.parametrize("shape", [(1, 1), (8, 2), (2, 50), (40, 30), (900, 800)])
def test_matrix_norm(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=generator(3))
    true = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert true * (1 - 1e-13) <= matrix_norm_exact(matrix) <= true * EXACT_LOOSENESS


def test_one_by_one_kernels_are_matrices() -> None:
    kernel = random_kernel(7, 5, 1)
    assert conv_certificate(kernel, (32, 32)) == matrix_norm_exact(kernel.flatten(1))


def test_bounds_scale_with_the_kernel_beyond_the_range_of_squares() -> None:
    kernel = random_kernel(3, 2, 3).double()
    for norm in (conv_norm_exact, conv_norm_fft):
        once = norm(kernel, (4, 4))
        for scale in (1e-200, 1e200):
            assert norm(kernel * scale, (4, 4)) == pytest.approx(once * scale, rel=1e-12)


def test_zero_has_norm_zero() -> None:
    kernel = torch.zeros(3, 2, 3, 3)
    assert conv_norm_exact(kernel, (4, 4)) == conv_norm_fft(kernel, (4, 4)) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    kernel = random_kernel(3, 2, 3)
    kernel[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="finite weights"):
        conv_certificate(kernel, (4, 4))


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="square odd kernel, got 2x2"):
        conv_certificate(torch.ones(1, 1, 2, 2), (4, 4))


def test_a_map_that_no_tap_reaches_has_norm_zero() -> None:
    kernel = torch.zeros(3, 3, 3, 3)
    kernel[:, :, 0, 0] = 1.0
    assert conv_norm_exact(kernel, (1, 1)) == 0
    kernel[:, :, 1, 1] = torch.eye(3)
    kernel[:, :, 0, 0] = 1e6
    for norm in (conv_norm_exact, conv_norm_fft):
        assert 1 <= norm(kernel, (1, 1)) <= EXACT_LOOSENESS
    assert cholesky_bound(torch.zeros(4, 4, dtype=torch.float64), 0.0) < 1e-12


def test_symbols_that_vanish_end_the_search() -> None:
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, :] = torch.tensor([1.0, 0.0, -1.0])
    assert conv_norm_fft(kernel, (2, 3)) >= float(dense_norm(kernel, (2, 3)))
