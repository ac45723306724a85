"""Compiled whole, without a graph break. Needs a C++ compiler, and no run-time type checks."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from flow_kernels import cpila, cpila_curvature, cpila_slope, cpila_with_slope
from torch import Tensor
from torch.autograd import grad
from torch.func import jvp

pytestmark = pytest.mark.compile

Operation = Callable[..., Tensor | tuple[Tensor, Tensor]]


def compiled(function: Operation) -> Callable[..., Tensor]:
    return cast(Callable[..., Tensor], torch.compile(function, fullgraph=True, dynamic=False))


def sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("operation", [cpila, cpila_slope, cpila_curvature])
def test_value_and_gradient_equal_eager(
    operation: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    x = sample(5, 7, 3, dtype=dtype)
    x[0, :, 0] = torch.tensor([0.2, -0.2, 0.0, 50.0, -50.0, 1e4, -1e4])
    x.requires_grad_()
    g = sample(5, 14, 3, dtype=dtype, seed=1)
    y, expected = compiled(operation)(x, 1), operation(x, 1)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(grad(y, x, g), grad(expected, x, g))


def test_value_with_slope_and_the_gradient_of_a_jacobian_product() -> None:
    def energy(x: Tensor, t: Tensor, g: Tensor) -> Tensor:
        value, slope = cpila_with_slope(x)
        return (g * slope * torch.cat((t, t), -1)).sum() + value.square().sum()

    x = sample(6, 8).requires_grad_()
    t, g = sample(6, 8, seed=1), sample(6, 16, seed=2)
    got, expected = compiled(energy)(x, t, g), energy(x, t, g)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(grad(got, x), grad(expected, x))


# Raised by torch itself when forward mode is used for the first time in a process.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_forward_mode_inside_of_the_graph() -> None:
    def push(x: Tensor, t: Tensor) -> Tensor:
        return cast(Tensor, jvp(cpila, (x,), (t,))[1])

    x, t = sample(6, 8), sample(6, 8, seed=1)
    torch.testing.assert_close(compiled(push)(x, t), cpila_slope(x) * torch.cat((t, t), -1))
