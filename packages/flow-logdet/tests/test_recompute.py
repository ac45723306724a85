import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from flow_logdet import (
    Exact,
    Fixed,
    Kind,
    Krylov,
    NeumannGradient,
    PowerSeries,
    Recompute,
    Roulette,
    StochasticEstimator,
)
from flow_logdet.estimator import Estimator
from flow_logdet.recompute import RecomputedLinearization
from flow_solvers import FunctionMap
from flow_solvers.maps import BoundMap, Linearization
from torch import Tensor

MapMaker = Callable[..., BoundMap]
WEIGHTS = torch.tensor([1.0, -10.0, 0.0, 1e3], dtype=torch.float64)


def loss(estimator: Estimator, bound: BoundMap, w: Tensor, kind: Kind) -> Tensor:
    """A loss like that of a residual block, with a weight of its own for every sample."""
    linearization = estimator.linearize(bound, w)
    log_det = estimator.log_det(linearization, kind).value
    y = w + linearization.value
    return (WEIGHTS * log_det).sum() + y.square().sum()


def estimators(point: Tensor) -> list[StochasticEstimator]:
    probes = torch.randn(2, *point.shape, dtype=point.dtype)
    fixed = Fixed(probes)
    return [
        Krylov(probe=fixed, probes=2),
        Krylov(probe=fixed, probes=2, control_variate=False),
        PowerSeries(4, probe=fixed, probes=2),
        NeumannGradient(PowerSeries(4, probe=fixed, probes=2, control_variate=True)),
    ]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("kernel", [None, 3])
def test_same_value_and_gradient_for_every_weight(
    dense_map: MapMaker, first_order_map: type, kind: Kind, index: int, kernel: int | None
) -> None:
    shape = (4, 3) if kernel is None else (4, 3, 2, 3)
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    bound = dense_map(3, kernel=kernel, kind=first_order_map)
    plain = estimators(w)[index]
    expected = loss(plain, bound, w, kind)
    found = loss(Recompute(plain), bound, w, kind)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    leaves = [w, *bound.tensors()]
    for a, b in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_no_graph_is_kept_and_one_pass_is_rebuilt(dense_map: MapMaker) -> None:
    w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    bound = Counted(dense_map(3))
    total = loss(Recompute(Krylov()), bound, w, Kind.RESIDUAL)
    assert bound.linearized == [False]
    saved = saved_shapes(total)
    # The point and the parameters (which live anyway), and one number per sample.
    assert {tuple(s) for s in saved} <= {tuple(t.shape) for t in (w, *bound.tensors())} | {(4,)}
    torch.autograd.backward(total)
    assert bound.linearized == [False, True]


def test_effective_weights_with_a_history(dense_map: MapMaker) -> None:
    raw = dense_map(3)
    w = torch.randn(4, 3, dtype=torch.float64)
    probe = Fixed(torch.randn(1, *w.shape, dtype=torch.float64))
    leaves = list(raw.tensors())
    found = []
    for estimator in (Krylov(probe=probe), Recompute(Krylov(probe=probe))):
        bound = raw.with_tensors([t.sin() for t in leaves])
        value = loss(estimator, bound, w.sigmoid(), Kind.MONOTONE)
        found.append(torch.autograd.grad(value, leaves))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_frozen_parameters_with_a_gradient_for_the_point(dense_map: MapMaker) -> None:
    raw = dense_map(3)
    bound = raw.with_tensors([t.detach() for t in raw.tensors()])
    w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(Recompute(Krylov()), bound, w, Kind.RESIDUAL), w)
    assert gradient.abs().max() > 0
    with torch.no_grad():
        assert not loss(Recompute(Krylov()), bound, w, Kind.RESIDUAL).requires_grad


def test_products_are_differentiable(dense_map: MapMaker) -> None:
    w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    bound = dense_map(3)
    plain, wrapped = bound.linearize(w), Recompute(Krylov()).linearize(bound, w)
    t = torch.randn_like(w)
    for a, b in (
        (wrapped.jvp(t), plain.jvp(t)),
        (wrapped.vjp(t), plain.vjp(t)),
        (wrapped.jacobian(), plain.jacobian()),
        (wrapped.select(torch.tensor([2, 0])).value, plain.value[[2, 0]]),
    ):
        torch.testing.assert_close(a, b)
        first, second = (torch.autograd.grad(x.sum(), w, retain_graph=True)[0] for x in (a, b))
        torch.testing.assert_close(first, second)


def test_misuse_is_refused(dense_map: MapMaker) -> None:
    bound, w = dense_map(3), torch.randn(4, 3, dtype=torch.float64)
    estimator = Recompute(Krylov())
    with pytest.raises(ValueError, match=r"made by Recompute\.linearize, got DenseLinearization"):
        estimator.log_det(bound.linearize(w), Kind.RESIDUAL)
    linearization = estimator.linearize(bound, w)
    assert isinstance(linearization, RecomputedLinearization)
    estimator.log_det(linearization, Kind.RESIDUAL)
    with pytest.raises(ValueError, match="linearization without a log-determinant"):
        estimator.log_det(linearization, Kind.RESIDUAL)


@pytest.mark.parametrize(
    "estimator",
    [
        Krylov(),
        PowerSeries(3),
        Roulette(),
        NeumannGradient(Roulette()),
        Recompute(Krylov()),
        Recompute(PowerSeries(3)),
    ],
)
def test_second_derivatives_are_refused(dense_map: MapMaker, estimator: Estimator) -> None:
    bound = dense_map(3)
    w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    value = estimator.log_det(estimator.linearize(bound, w), Kind.RESIDUAL).value
    for leaf in (w, bound.tensors()[0], bound.tensors()[-1]):
        (first,) = torch.autograd.grad(value.square().sum(), leaf, create_graph=True)
        for target in (w, bound.tensors()[0]):
            with pytest.raises(RuntimeError, match=r"no second derivative; use flow_logdet\.Exact"):
                torch.autograd.grad(first.sum(), target, retain_graph=True)


def test_exact_offers_second_derivatives(dense_map: MapMaker) -> None:
    w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    value = Exact().log_det(dense_map(3).linearize(w), Kind.RESIDUAL).value
    (first,) = torch.autograd.grad(value.sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), w)
    assert second.abs().max() > 0


def saved_shapes(output: Tensor) -> list[torch.Size]:
    """Shapes of everything that the graph below `output` has saved, up to the leaves."""
    shapes, seen, queue = list[torch.Size](), set[object](), [output.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        saved += getattr(node, "saved_tensors", ())
        shapes += [t.shape for t in saved if isinstance(t, Tensor)]
        queue += [parent for parent, _ in node.next_functions]
    return shapes


class Counted:
    """A bound map that notes every linearization, and whether gradients were on."""

    def __init__(self, inner: BoundMap, linearized: list[bool] | None = None) -> None:
        self.inner = inner
        self.linearized: list[bool] = [] if linearized is None else linearized

    def __call__(self, w: Tensor) -> Tensor:
        return self.inner(w)

    def linearize(self, w: Tensor) -> Linearization:
        self.linearized.append(torch.is_grad_enabled())
        return self.inner.linearize(w)

    def select(self, index: Tensor) -> "Counted":
        return Counted(self.inner.select(index), self.linearized)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.inner.tensors()

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Counted":
        return Counted(self.inner.with_tensors(tensors), self.linearized)

    def __neg__(self) -> "Counted":
        return Counted(-self.inner, self.linearized)


@pytest.mark.parametrize("kind", [Kind.RESIDUAL, Kind.MONOTONE])
def test_a_map_by_autograd_keeps_its_products(kind: Kind) -> None:
    torch.manual_seed(0)
    matrix = 0.4 * torch.randn(3, 3, dtype=torch.float64)
    w = torch.randn(4, 3, dtype=torch.float64)
    for estimator in estimators(w):
        found: list[tuple[Tensor, ...]] = []
        for chosen in (estimator, Recompute(estimator)):
            a, point = matrix.clone().requires_grad_(), w.clone().requires_grad_()
            bound = FunctionMap(lambda w, a: torch.tanh(w @ a.mT) / 2, [a])
            value = loss(chosen, bound, point, kind)
            found.append((value, *torch.autograd.grad(value, (a, point))))
        for expected, got in zip(*found, strict=True):
            assert float(expected.detach().abs().max()) > 1e-3
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_only_stochastic_estimators_are_recomputed() -> None:
    unchecked = inspect.unwrap(Recompute.__init__)  # as it is without checks of types
    with pytest.raises(TypeError, match="estimator to be a stochastic estimator"):
        unchecked(Recompute(Krylov()), cast(Any, Exact()))
