import jaxtyping
import pytest
import torch
from flow_solvers import BoundMap, FunctionMap, Linearization, MapFunction
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian


def normal(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def function(w: Tensor, matrix: Tensor, context: Tensor) -> Tensor:
    return torch.sin(w @ matrix.mT) * context


def make() -> FunctionMap:
    return FunctionMap(function, (normal(3, 3, seed=1),), (normal(5, 3, seed=2),))


def dense(bound: FunctionMap, w: Tensor) -> Tensor:
    full: Tensor = jacobian(bound, w)  # type: ignore[no-untyped-call]  # as torch has it
    return torch.stack([full[b, :, b] for b in range(w.shape[0])])


def test_the_protocols_are_met() -> None:
    bound = make()
    assert isinstance(bound, BoundMap)
    assert isinstance(bound.linearize(normal(5, 3)), Linearization)


@pytest.mark.parametrize("grad", [True, False])
def test_products_are_those_of_the_jacobian(grad: bool) -> None:
    bound, w = make(), normal(5, 3)
    matrix = dense(bound, w)
    with torch.set_grad_enabled(grad):
        linearization = bound.linearize(w)
        probes = normal(2, 4, 5, 3, seed=3)
        torch.testing.assert_close(linearization.value, bound(w))
        torch.testing.assert_close(linearization.jacobian(), matrix)
        torch.testing.assert_close(
            linearization.jvp(probes), torch.einsum("bij,pqbj->pqbi", matrix, probes)
        )
        torch.testing.assert_close(
            linearization.vjp(probes), torch.einsum("bij,pqbi->pqbj", matrix, probes)
        )
        single = linearization.jvp(probes[0, 0])
    torch.testing.assert_close(single, torch.einsum("bij,bj->bi", matrix, probes[0, 0]))


def test_nothing_has_a_graph_where_gradients_are_off() -> None:
    matrix = normal(3, 3, seed=1).requires_grad_()
    bound = FunctionMap(function, (matrix,), (normal(5, 3, seed=2),))
    with torch.no_grad():
        linearization = bound.linearize(normal(5, 3).requires_grad_())
        products = (linearization.value, linearization.jacobian(), linearization.jvp(normal(5, 3)))
    assert not any(product.requires_grad for product in products)


@pytest.mark.parametrize("product", ["jvp", "vjp"])
def test_products_are_differentiable(product: str) -> None:
    tangent = normal(5, 3, seed=3)

    def multiply(w: Tensor, matrix: Tensor, context: Tensor) -> Tensor:
        linearization = FunctionMap(function, (matrix,), (context,)).linearize(w)
        return linearization.jvp(tangent) if product == "jvp" else linearization.vjp(tangent)

    leaves = (normal(5, 3), normal(3, 3, seed=1), normal(5, 3, seed=2))
    for leaf in leaves:
        leaf.requires_grad_()
    assert gradcheck(multiply, leaves, fast_mode=True)
    assert gradgradcheck(multiply, leaves, fast_mode=True)


def test_products_are_partial_derivatives() -> None:
    w = normal(5, 3).requires_grad_()
    bound = FunctionMap(function, (normal(3, 3, seed=1),), (torch.cos(w),))
    fixed = FunctionMap(function, (normal(3, 3, seed=1),), (torch.cos(w).detach(),))
    torch.testing.assert_close(bound.linearize(w).jacobian(), dense(fixed, w.detach()))


def test_select_takes_what_belongs_to_the_samples() -> None:
    bound, w, index = make(), normal(5, 3), torch.tensor([3, 1])
    torch.testing.assert_close(bound.select(index)(w[index]), bound(w)[index])
    part = bound.linearize(w).select(index)
    torch.testing.assert_close(part.jacobian(), dense(bound, w)[index])


def test_negation() -> None:
    bound, w = make(), normal(5, 3)
    torch.testing.assert_close((-bound)(w), -bound(w))
    torch.testing.assert_close((-bound).linearize(w).jacobian(), -dense(bound, w))
    opposite = -bound
    torch.testing.assert_close((-opposite)(w), bound(w))
    assert len((-bound).tensors()) == 2


def test_tensors_can_be_replaced_in_their_order() -> None:
    bound = make()
    doubled = bound.with_tensors([2 * tensor for tensor in bound.tensors()])
    matrix, context = bound.tensors()
    w = normal(5, 3)
    torch.testing.assert_close(doubled(w), function(w, 2 * matrix, 2 * context))
    torch.testing.assert_close(
        doubled.select(torch.tensor([4]))(w[4:]), function(w[4:], 2 * matrix, 2 * context[4:])
    )


def detached(w: Tensor) -> Tensor:
    return w.detach() + 1


@pytest.mark.parametrize("constant", [torch.zeros_like, detached])
def test_a_map_that_does_not_depend_on_w(constant: MapFunction) -> None:
    linearization = FunctionMap(constant).linearize(normal(5, 3))
    assert float(linearization.jacobian().abs().sum()) == 0.0
    assert float(linearization.jvp(normal(5, 3)).abs().sum()) == 0.0


def test_wrong_probes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="expected probes"):
        make().linearize(normal(5, 3)).vjp(normal(4, 3))
