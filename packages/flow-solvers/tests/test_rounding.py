"""Residuals and error bounds against what they are in exact arithmetic."""

from collections.abc import Callable

import pytest
import torch
from flow_solvers import FunctionMap, MapFunction, Solution, Tolerance, resolvent
from torch import Tensor
from torch.nn.functional import linear

LIPSCHITZ = 0.999
EPS = torch.finfo(torch.float32).eps


def opposite(dim: int) -> Tensor:
    """The identity with its sign turned, where residuals round to zero."""
    return -torch.eye(dim)


def definite(dim: int) -> Tensor:
    """Negative definite, where the error is largest against the residual."""
    raw = torch.randn(dim, dim, generator=torch.Generator().manual_seed(dim))
    return -raw @ raw.mT


def image(w: Tensor, matrix: Tensor) -> Tensor:
    return linear(w, matrix)


def sines(w: Tensor, matrix: Tensor) -> Tensor:
    return torch.sin(linear(w, matrix))


def rms(tensor: Tensor) -> Tensor:
    return tensor.double().square().mean(dim=1).sqrt()


@pytest.mark.parametrize("function", [image, sines])
@pytest.mark.parametrize("make", [opposite, definite])
@pytest.mark.parametrize("dim", [1, 2, 16, 64])
def test_what_is_promised_of_residuals_and_errors_holds_in_exact_arithmetic(
    dim: int, make: Callable[[int], Tensor], function: MapFunction
) -> None:
    matrix = make(dim)
    matrix *= 0.9999 * LIPSCHITZ / torch.linalg.matrix_norm(matrix.double(), 2)
    x = 2 * torch.randn(400, dim, generator=torch.Generator().manual_seed(0))
    found = resolvent(FunctionMap(function, (matrix,)), x, lipschitz=LIPSCHITZ)
    wide = FunctionMap(function, (matrix.double(),))
    w = found.value.double()
    exact = resolvent(wide, x.double(), start=w, tolerance=Tolerance(rtol=1e-14))
    assert found.error_bound is not None
    assert bool((rms(w - exact.value) <= found.error_bound).all())
    assert_within_tolerance(found, x.double(), wide(w))


def assert_within_tolerance(found: Solution, x: Tensor, value: Tensor) -> None:
    w = found.value.double()
    scale = rms(x) + rms(w) + rms(value)
    assert bool((rms(x - w - value) <= (1e-6 + 5 * EPS) * scale).all())


def test_the_bound_is_not_far_from_what_the_residual_says() -> None:
    matrix = 0.5 * torch.eye(20)
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    found = resolvent(
        FunctionMap(sines, (matrix,)), x, lipschitz=0.5, tolerance=Tolerance(rtol=1e-4)
    )
    assert found.error_bound is not None
    assert bool((found.error_bound < 2.0 * found.residual + 2e-5 * rms(x)).all())
    assert bool((found.error_bound > 2.0 * found.residual).all())
