"""Derivatives of the operations: both modes, to the second order and beyond, under vmap."""

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch
from flow_kernels import cpila, cpila_curvature, cpila_slope, cpila_with_slope
from flow_kernels.cpila import cpu, reference
from torch import Tensor, autograd
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vmap

# Raised by torch itself when forward mode is used for the first time in a process.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")

Operation = Callable[..., Tensor | tuple[Tensor, Tensor]]

OPERATIONS: list[Operation] = [cpila, cpila_slope, cpila_curvature, cpila_with_slope]
Transform = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]

SINGLE: list[Callable[..., Tensor]] = [cpila, cpila_slope, cpila_curvature]


def points() -> Tensor:
    """Both branches of both halves, and the points around the offsets."""
    values = [-3.0, -0.8, -0.6, -0.21, -0.19, -0.05, 0.0, 0.1, 0.19, 0.21, 1.0, 2.5]
    return torch.tensor(values, dtype=torch.float64).view(2, 3, 2)


def sample(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gradcheck_both_modes_and_batched(operation: Operation, dim: int) -> None:
    x = points().requires_grad_()

    def along(x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return operation(x, dim)

    assert gradcheck(
        along,
        x,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradgradcheck(operation: Operation) -> None:
    x = points().requires_grad_()
    assert gradgradcheck(operation, x, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("operation", SINGLE)
def test_third_derivative(operation: Callable[..., Tensor]) -> None:
    # Away from ±.2: the fourth derivative of Pila jumps there.
    x = points().requires_grad_()

    def twice_differentiated(x: Tensor) -> Tensor:
        (first,) = autograd.grad(operation(x).square().sum(), x, create_graph=True)
        (second,) = autograd.grad(first.sin().sum(), x, create_graph=True)
        return second

    assert gradcheck(twice_differentiated, x)


@pytest.mark.parametrize("operation", SINGLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_autograd_of_the_definition(
    operation: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    x = sample(5, 3).to(dtype).requires_grad_()
    g = sample(5, 6, seed=1).to(dtype)
    (expected_y,) = reference.derivatives(x, -1, SINGLE.index(operation), 1)
    expected = autograd.grad(expected_y, x, g)
    torch.testing.assert_close(autograd.grad(operation(x), x, g), expected)


@pytest.mark.parametrize("used", [(True, False), (False, True), (True, True)])
def test_unused_outputs_cost_and_add_nothing(used: tuple[bool, bool]) -> None:
    x = points().requires_grad_()
    outputs = [y for y, use in zip(cpila_with_slope(x), used, strict=True) if use]
    separate = [f(x) for f, use in zip((cpila, cpila_slope), used, strict=True) if use]
    cotangents = [sample(*y.shape, seed=k) for k, y in enumerate(outputs)]
    (got,) = autograd.grad(outputs, x, cotangents, create_graph=True)
    (expected,) = autograd.grad(separate, x, cotangents, create_graph=True)
    torch.testing.assert_close(got, expected)
    weights = sample(*x.shape, seed=7)
    torch.testing.assert_close(autograd.grad(got, x, weights), autograd.grad(expected, x, weights))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("order", [0, 1])
def test_fused_pullback_equals_the_reference(order: int, count: int) -> None:
    x = sample(4, 3, 5)
    cotangents = tuple(sample(4, 6, 5, seed=k) for k in range(count))
    torch.testing.assert_close(
        cpu.pullback(x, -2, order, cotangents), reference.pullback(x, -2, order, cotangents)
    )


def dual_tangent(x: Tensor, t: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(x, t)  # type: ignore[no-untyped-call]  # untyped in torch
    _, tangent = forward_ad.unpack_dual(cpila(dual))  # type: ignore[no-untyped-call]  # likewise
    return cast(Tensor, tangent)


def test_forward_mode_equals_slope_times_tangent() -> None:
    x, t = sample(4, 3), sample(4, 3, seed=1)
    value, tangent = jvp(cpila, (x,), (t,))[:2]
    torch.testing.assert_close(value, cpila(x))
    torch.testing.assert_close(tangent, cpila_slope(x) * torch.cat((t, t), -1))
    with forward_ad.dual_level():
        torch.testing.assert_close(dual_tangent(x, t), tangent)


def test_forward_mode_without_grad_mode() -> None:
    x, t = sample(4, 3), sample(4, 3, seed=1)
    with torch.no_grad(), forward_ad.dual_level():
        tangent = dual_tangent(x, t)
    torch.testing.assert_close(tangent, cpila_slope(x) * torch.cat((t, t), -1))


def test_dense_jacobians_of_functional_transforms() -> None:
    x = sample(4)
    expected = torch.cat((torch.diag(cpila_slope(x)[:4]), torch.diag(cpila_slope(x)[4:])))
    torch.testing.assert_close(jacrev(cpila)(x), expected)
    torch.testing.assert_close(jacfwd(cpila)(x), expected)
    torch.testing.assert_close(vmap(jacrev(cpila))(x.expand(3, 4)), expected.expand(3, 8, 4))
    torch.testing.assert_close(vmap(jacfwd(cpila))(x.expand(3, 4)), expected.expand(3, 8, 4))


@pytest.mark.parametrize("outer", [jacfwd, jacrev])
@pytest.mark.parametrize("inner", [jacfwd, jacrev])
def test_hessians(outer: Transform, inner: Transform) -> None:
    x, weights = sample(4), sample(8, seed=1)

    def energy(x: Tensor) -> Tensor:
        return weights @ cpila(x)

    curvature = (weights * cpila_curvature(x)).view(2, 4).sum(0)
    torch.testing.assert_close(outer(inner(energy))(x), torch.diag(curvature))


def test_three_nested_forward_modes() -> None:
    def along_one(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: jvp(f, (x,), (torch.ones_like(x),))[1]

    # Away from ±.2, where the fourth derivative of Pila jumps.
    x = points().requires_grad_()
    (expected,) = autograd.grad(cpila_curvature(x).sum(), x)
    third = along_one(along_one(along_one(cpila)))(x.detach())
    torch.testing.assert_close(third[..., :2] + third[..., 2:], expected)


@pytest.mark.parametrize("in_dim", [0, 1, 2, -1])
@pytest.mark.parametrize("operation", SINGLE)
def test_vmap_over_every_dimension(operation: Callable[..., Tensor], in_dim: int) -> None:
    x = sample(2, 3, 4)
    rows = x.movedim(in_dim, 0)
    for dim in (0, -1):
        batched = vmap(partial(operation, dim=dim), in_dims=in_dim)(x)
        torch.testing.assert_close(batched, torch.stack([operation(row, dim) for row in rows]))


def test_vmap_without_grad_mode() -> None:
    x = sample(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(vmap(cpila)(x), cpila(x))


def test_gradient_of_a_cotangent_alone() -> None:
    x, g = sample(4, 3), sample(4, 6, seed=1).requires_grad_()
    y = cpila(x.requires_grad_())
    (pulled,) = autograd.grad(y, x, g, create_graph=True)
    weights = sample(4, 3, seed=2)
    expected = torch.cat((weights, weights), -1) * cpila_slope(x)
    torch.testing.assert_close(autograd.grad(pulled, g, weights)[0], expected)


def test_vmap_over_cotangents_only_and_points_only() -> None:
    x, cotangents = sample(3), sample(5, 6, seed=1)

    def product(x: Tensor, g: Tensor) -> Tensor:
        return (g * cpila(x)).sum()

    pull: Callable[..., Tensor] = grad(product)

    expected = torch.stack([pull(x, g) for g in cotangents])
    torch.testing.assert_close(vmap(pull, in_dims=(None, 0))(x, cotangents), expected)
    points = sample(5, 3, seed=2)
    expected = torch.stack([pull(x, cotangents[0]) for x in points])
    torch.testing.assert_close(vmap(pull, in_dims=(0, None))(points, cotangents[0]), expected)


def test_only_the_input_is_kept_for_backward() -> None:
    x = sample(4, 3).requires_grad_()
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        cpila_with_slope(x)
    assert [tensor.data_ptr() for tensor in saved] == [x.data_ptr()]


def test_half_precision_gradient_is_rounded_once() -> None:
    x = torch.linspace(-2, 2, 41).bfloat16().requires_grad_()
    g = sample(82, seed=1).bfloat16()
    (got,) = autograd.grad(cpila(x), x, g)
    expected = reference.pullback(x.detach().float(), -1, 0, (g.float(),)).bfloat16()
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=2**-8, atol=1e-6)
