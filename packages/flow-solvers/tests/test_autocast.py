"""Backward passes inside autocast, which would compute their products in half precision."""

from collections.abc import Sequence

import pytest
import torch
from flow_solvers import (
    FunctionMap,
    resolvent,
    without_autocast,
    without_autocast_backward,
)
from torch import Tensor
from torch.autograd import grad
from torch.nn.functional import linear


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sines(w: Tensor, matrix: Tensor) -> Tensor:
    return torch.sin(linear(w, matrix))


def leaves(dim: int) -> tuple[Tensor, Tensor]:
    matrix = normal(dim, dim, seed=1)
    matrix *= 0.8 / torch.linalg.matrix_norm(matrix, 2)
    return normal(16, dim).requires_grad_(), matrix.requires_grad_()


def half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dim", [2, 8, 20])
def test_derivatives_of_a_solve_are_not_rounded(dim: int, order: int) -> None:
    x, matrix = leaves(dim)

    def derivative(*, inside: bool) -> tuple[Tensor, ...]:
        value = resolvent(FunctionMap(sines, (matrix,)), x).value
        grads: tuple[Tensor, ...] = (value,)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            for _ in range(order):
                loss = torch.stack([g.square().sum() for g in grads]).sum()
                grads = grad(loss, (x, matrix), create_graph=True)
        return grads

    for found, expected in zip(derivative(inside=True), derivative(inside=False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_derivatives_of_a_jacobian_are_not_rounded() -> None:
    x, matrix = leaves(2)

    def derivative(*, inside: bool) -> tuple[Tensor, ...]:
        at = resolvent(FunctionMap(sines, (matrix,)), x).linearization
        assert at is not None
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            grads = grad(at.jacobian().square().sum(), (x, matrix), create_graph=True)
            loss = torch.stack([g.square().sum() for g in grads]).sum()
            return (*grads, *grad(loss, (x, matrix)))

    for found, expected in zip(derivative(inside=True), derivative(inside=False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    return tuple(normal(8, 8, seed=seed).requires_grad_() for seed in range(4))


def computed(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Two products whose backward pass is kept exact, between two that are left to autocast."""
    first, *inner, last = inputs
    before = first @ first
    between = (before @ inner[0]).tanh() @ inner[1]
    without_autocast_backward((between,), (before,))
    return before, between, between @ last


def test_only_what_was_computed_without_autocast_is_differentiated_without(
    inputs: tuple[Tensor, ...],
) -> None:
    before, between, after = computed(inputs)
    with half():
        found = grad(after.sum(), (between, before, *inputs), retain_graph=True)
    expected = grad(between, (before, *inputs[1:3]), found[0], retain_graph=True)
    for one, other in zip((found[1], *found[3:5]), expected, strict=True):
        assert torch.equal(one, other)
    outside = grad(after.sum(), between), grad(before, inputs[0], found[1])
    for one, (other,) in zip((found[0], found[2]), outside, strict=True):
        assert float((one - other).abs().max()) > 1e-3


def test_autocast_is_on_again_after_the_backward_pass(inputs: tuple[Tensor, ...]) -> None:
    loss = computed(inputs)[-1].sum()
    with half():
        grad(loss, inputs)
        assert torch.is_autocast_enabled("cpu")
        assert (inputs[0] @ inputs[1]).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_a_graph_may_be_kept_and_run_in_any_state(inputs: tuple[Tensor, ...]) -> None:
    with without_autocast(inputs[0]):
        output = (inputs[0] @ inputs[1]).tanh() @ inputs[2]
    without_autocast_backward((output,), inputs)
    expected = grad(output.sum(), inputs[:3], retain_graph=True)
    for inside in (True, True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            found = grad(output.sum(), inputs[:3], retain_graph=True)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


def test_leaves_are_left_alone(inputs: tuple[Tensor, ...]) -> None:
    """A leaf has one node in all graphs: what is hung on it would stay there."""
    matrix = inputs[1]
    output = inputs[0] @ matrix
    without_autocast_backward((output,), ())
    with half():
        grad(output.sum(), matrix, retain_graph=True)
        other = (inputs[0] @ matrix).sum()
        (rounded,) = grad(other, matrix)
    (exact,) = grad((inputs[0] @ matrix).sum(), matrix)
    assert float((rounded - exact).abs().max()) > 1e-3


def test_an_output_without_a_graph_needs_nothing() -> None:
    x = normal(3, 3).requires_grad_()
    for output in (x, x.detach(), x.view_as(x)):
        without_autocast_backward((output,), (output,))
    with half():
        assert torch.equal(grad(x.sum(), x)[0], torch.ones(3, 3))
