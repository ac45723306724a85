"""Gradients of values and Jacobians, against autograd through a dense Jacobian."""

import pytest
import torch
from flow_solvers import FunctionMap, JacobianLinearization, MapFunction, pull_back
from torch import Tensor
from torch.autograd import grad


def normal(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def function(w: Tensor, matrix: Tensor, context: Tensor) -> Tensor:
    return torch.sin(w @ matrix.mT) * context


def dense(w: Tensor, matrix: Tensor, context: Tensor) -> Tensor:
    """The Jacobian of `function` by hand."""
    return (torch.cos(w @ matrix.mT) * context).unsqueeze(2) * matrix


def inputs() -> list[Tensor]:
    return [normal(5, 3), normal(3, 3, seed=1), normal(5, 3, seed=2)]


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("value", "jacobian"), [(True, False), (False, True), (True, True)])
def test_gradients_are_those_of_autograd(value: bool, jacobian: bool, graph: bool) -> None:
    along_value = normal(5, 3, seed=3) if value else None
    along_jacobian = normal(5, 3, 3, seed=4) if jacobian else None
    leaves = [tensor.requires_grad_() for tensor in inputs()]
    terms: list[Tensor] = []
    if along_value is not None:
        terms.append((function(*leaves) * along_value).sum())
    if along_jacobian is not None:
        terms.append((dense(*leaves) * along_jacobian).sum())
    expected = grad(torch.stack(terms).sum(), leaves)
    w, matrix, context = leaves
    with torch.set_grad_enabled(graph):
        bound = FunctionMap(function, (matrix,), (context,))
        by_w, by_tensors = pull_back(bound, w, along_value, along_jacobian)
    found = (by_w, *by_tensors)
    assert not any(tensor.requires_grad for tensor in found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_nothing_pulled_back_is_nothing() -> None:
    w, matrix, context = inputs()
    by_w, by_tensors = pull_back(FunctionMap(function, (matrix,), (context,)), w, None, None)
    assert [t.shape for t in by_tensors] == [matrix.shape, context.shape]
    assert not any(bool(t.any()) for t in (by_w, *by_tensors))


def detached(w: Tensor) -> Tensor:
    return w.detach() + 1


@pytest.mark.parametrize("constant", [torch.zeros_like, detached])
def test_a_map_that_does_not_depend_on_w(constant: MapFunction) -> None:
    by_w, by_tensors = pull_back(
        FunctionMap(constant), normal(5, 3), normal(5, 3, seed=3), normal(5, 3, 3, seed=4)
    )
    assert by_tensors == ()
    assert not bool(by_w.any())


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 1, 3, 2)])
def test_a_linearization_with_its_jacobian(shape: tuple[int, ...]) -> None:
    bound, w, index = FunctionMap(lambda w: torch.sin(2 * w)), normal(*shape), torch.tensor([3, 1])
    plain = bound.linearize(w)
    known = JacobianLinearization(bound, w, bound(w), plain.jacobian())
    probes = normal(2, 4, *shape, seed=3)
    torch.testing.assert_close(known.jvp(probes), plain.jvp(probes))
    torch.testing.assert_close(known.vjp(probes), plain.vjp(probes))
    torch.testing.assert_close(known.vjp(probes[0, 0]), plain.vjp(probes[0, 0]))
    part = known.select(index)
    torch.testing.assert_close(part.value, bound(w)[index])
    torch.testing.assert_close(part.jvp(probes[0, 0][index]), plain.jvp(probes[0, 0])[index])
