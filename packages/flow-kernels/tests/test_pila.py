import math
from collections.abc import Callable

import pytest
import torch
from flow_kernels import pila, pila_curvature, pila_slope
from flow_kernels.pila import pila_derivatives, polynomial
from numpy.polynomial import Polynomial
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

# Raised by torch itself when forward mode is used for the first time in a process.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")

FUNCTIONS = [pila, pila_slope, pila_curvature]


def points() -> Tensor:
    return torch.tensor(
        [-6.0, -2.0, -0.8, -0.45391, -0.28769, -0.1, -1e-3, 1e-3, 0.4, 3.0], dtype=torch.float64
    )


@pytest.mark.parametrize("order", range(6))
def test_coefficients_differentiate_cubic_times_exponential(order: int) -> None:
    p = Polynomial([0.0, 1.0, -5.0, 12.5])
    for _ in range(order):
        p = p.deriv() + 5 * p
    assert polynomial(order) == pytest.approx([float(c) for c in p.coef], rel=1e-15, abs=0)


def test_published_table_of_coefficients() -> None:
    assert polynomial(1) == (1.0, -5.0, 12.5, 62.5)
    assert polynomial(2) == (0.0, 0.0, 250.0, 312.5)
    assert polynomial(3) == (0.0, 500.0, 2187.5, 1562.5)


def test_golden_values() -> None:
    x = torch.tensor([-0.8, -0.45391, -0.28769], dtype=torch.float64)
    assert math.isclose(pila(x)[1].item(), -0.27422, abs_tol=1e-5)
    assert math.isclose(pila_slope(x)[0].item(), -19 * math.exp(-4), rel_tol=1e-14)
    assert math.isclose(pila_curvature(x)[2].item(), 3.1443, abs_tol=1e-4)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_first_and_second_derivatives(function: Callable[[Tensor], Tensor]) -> None:
    x = points().requires_grad_()
    assert gradcheck(function, x, check_forward_ad=True)
    assert gradgradcheck(function, x)


def test_derivative_at_zero_is_the_one_from_the_left() -> None:
    x = torch.zeros(1, requires_grad=True)
    (slope,) = torch.autograd.grad(pila(x), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, x)
    assert (pila(x).item(), slope.item(), curvature.item()) == (0.0, 1.0, 0.0)
    assert (pila_slope(x).item(), pila_curvature(x).item()) == (1.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_extreme_arguments(dtype: torch.dtype) -> None:
    top = torch.finfo(dtype).max
    x = torch.tensor([-top, -1e4, 1e4, top], dtype=dtype, requires_grad=True)
    assert torch.equal(pila(x), torch.where(x > 0, x, 0.0))
    assert torch.equal(pila_slope(x), (x > 0).to(dtype))
    assert torch.equal(pila_curvature(x), torch.zeros_like(x))
    (grad,) = torch.autograd.grad(pila(x).sum(), x)
    assert torch.equal(grad, (x > 0).to(dtype))


def test_nan_propagates() -> None:
    x = torch.tensor([float("nan"), 1.0])
    for y in pila_derivatives(x, 0, 5):
        assert y.isnan().tolist() == [True, False]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_integers_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="floating point"):
        function(torch.arange(3))
