"""Biased estimators: their bounds hold, and Krylov is good where the issue is hard."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from flow_logdet import (
    Exact,
    Fixed,
    Kind,
    Krylov,
    LogDet,
    PowerSeries,
    Rademacher,
    default_estimator,
    log_det_difference,
)
from flow_logdet.stochastic import ProbeEstimator
from flow_solvers import FunctionMap
from flow_solvers.maps import BoundMap
from torch import Tensor

MapMaker = Callable[..., BoundMap]


@dataclass(frozen=True)
class Case:
    """A point where the Jacobian of a scaled net has a given norm."""

    bound: BoundMap
    w: Tensor

    def values(self, make: Callable[[Fixed], ProbeEstimator], kind: Kind) -> Tensor:
        """The estimate for every sign vector."""
        dim = self.w.shape[1]
        bits = torch.arange(2**dim).unsqueeze(1) >> torch.arange(dim)
        signs = (2.0 * (bits % 2) - 1).double()
        estimator = make(Fixed(signs.unsqueeze(0)))
        with torch.no_grad():
            lin = self.bound.linearize(self.w.expand(2**dim, dim))
            return estimator.log_det(lin, kind).value

    def bias(self, make: Callable[[Fixed], ProbeEstimator], kind: Kind) -> float:
        """Mean over all sign vectors minus the exact value."""
        with torch.no_grad():
            exact = Exact().log_det(self.bound.linearize(self.w), kind).value
        return float(self.values(make, kind).mean() - exact)


def scaled(dense_map: MapMaker, norm: float, dim: int = 8) -> Case:
    """G times the factor that gives ‖J‖ = norm at one point."""
    w = torch.randn(1, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    bound = dense_map(dim, growth=10)
    with torch.no_grad():
        size = torch.linalg.matrix_norm(bound.linearize(w).jacobian(), 2)
    tensors = list(bound.tensors())
    last = len(tensors) // 2
    tensors[last] = tensors[last].detach() * float(norm / size)
    return Case(bound.with_tensors(tensors), w)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("norm", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_bounds_hold_and_say_something(
    dense_map: MapMaker, kind: Kind, norm: float, steps: int
) -> None:
    case = scaled(dense_map, norm)
    series, krylov = PowerSeries(steps), Krylov(steps=steps, tolerance=0.0)
    found = case.bias(lambda p: PowerSeries(steps, probe=p), kind)
    assert abs(found) <= series.bias_bound(8, norm, kind)
    found = case.bias(lambda p: Krylov(steps, probe=p, tolerance=0.0), kind)
    assert abs(found) <= krylov.bias_bound(8, norm, kind)
    assert krylov.bias_bound(8, norm, kind) <= 2 * 8 * kind.tail(steps, norm)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("tolerance", [0.3, 1e-1, 1e-2, 1e-4])
def test_an_early_stop_is_within_its_bound(
    dense_map: MapMaker, kind: Kind, tolerance: float
) -> None:
    case = scaled(dense_map, 0.8)
    found = case.bias(lambda p: Krylov(8, probe=p, tolerance=tolerance), kind)
    bound = Krylov(8, tolerance=tolerance).bias_bound(8, 0.8, kind)
    assert abs(found) <= bound
    assert bound == pytest.approx(8 * max(2 * kind.tail(8, 0.8), tolerance / 0.2))


@pytest.mark.parametrize("kind", Kind)
def test_krylov_beats_the_series_at_equal_products(gradient_map: MapMaker, kind: Kind) -> None:
    """The error of one probe, root mean square over all sign vectors."""
    case = Case(gradient_map(8, norm=0.95), torch.linspace(0, 2, 8, dtype=torch.float64)[None])
    limit = case.values(lambda p: Krylov(8, probe=p, tolerance=0.0), kind)

    def error(make: Callable[[Fixed], ProbeEstimator]) -> float:
        return float((case.values(make, kind) - limit).square().mean().sqrt())

    for steps in (3, 5):
        series = error(lambda p, k=steps: PowerSeries(k, probe=p))  # type: ignore[misc]
        krylov = error(lambda p, k=steps: Krylov(k, probe=p, tolerance=0.0))  # type: ignore[misc]
        assert krylov < 0.1 * series


def test_bounds_need_a_contraction() -> None:
    for estimator in (Krylov(), PowerSeries(3)):
        with pytest.raises(ValueError, match=r"Lipschitz bound in \[0, 1\), got 1\.0"):
            estimator.bias_bound(3, 1.0, Kind.RESIDUAL)


def linear(matrix: Tensor) -> BoundMap:
    """w -> J w."""
    return FunctionMap(lambda w, j: w @ j.mT, tensors=(matrix,))


def rotations(planes: int, norm: float) -> Tensor:
    """J made of planes that turn by 23 to 180 degrees: signs see no difference between samples."""
    angles = torch.linspace(0.4, torch.pi, planes, dtype=torch.float64)
    turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], 1)
    blocks = torch.einsum("pij,pq->piqj", turns.view(-1, 2, 2), torch.eye(planes).double())
    return norm * blocks.reshape(2 * planes, 2 * planes)


def errors_of(estimator: ProbeEstimator, matrix: Tensor, kind: Kind) -> tuple[Tensor, LogDet]:
    """Value minus truth for six samples, and the estimate."""
    torch.manual_seed(0)
    w = torch.zeros(6, len(matrix), dtype=torch.float64)
    with torch.no_grad():
        lin = linear(matrix).linearize(w)
        found = estimator.log_det(lin, kind)
        return found.value - Exact(limit=w.shape[1]).log_det(lin, kind).value, found


def evaluation(dim: int) -> Krylov:
    estimator = default_estimator(dim, training=False)
    assert isinstance(estimator, Krylov)
    return estimator


def test_evaluation_goes_on_until_its_quadrature_is_good() -> None:
    for norm in (0.9, 0.99):
        errors, found = errors_of(evaluation(80), rotations(40, norm), Kind.RESIDUAL)
        assert found.bias is not None
        # The noise of these probes is nothing, so that all of the error is bias.
        assert float(errors.abs().max()) < 1e-3
        assert float(found.bias.max()) < 0.1


def test_evaluation_costs_little_where_the_jacobian_is_tame(gradient_map: MapMaker) -> None:
    w = torch.linspace(0, 2, 80, dtype=torch.float64).expand(3, 80)
    estimator = evaluation(80)
    with torch.no_grad():
        found = estimator.log_det(gradient_map(80, norm=0.5).linearize(w), Kind.MONOTONE)
    groups = 4
    assert found.products <= 6 * groups * estimator.probes


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("steps", [4, 8, 16])
def test_what_a_last_step_leaves_is_told(kind: Kind, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    square = torch.randn(70, 70, dtype=torch.float64, generator=generator)
    symmetric = square + square.mT
    size = torch.linalg.matrix_norm(symmetric, 2)
    for matrix in (rotations(35, 0.99), 0.99 * symmetric / size):
        krylov = Krylov(steps, tolerance=0.0)
        _, found = errors_of(krylov, matrix, kind)
        _, limit = errors_of(Krylov(70, tolerance=0.0), matrix, kind)
        assert found.bias is not None
        assert limit.bias is not None
        missed = (found.value - limit.value).abs()
        assert float(missed.max()) > 1e-3
        assert (missed <= found.bias).all()
        assert float(limit.bias.max()) < 1e-6


def test_bias_of_a_difference_is_the_sum() -> None:
    lin = linear(rotations(35, 0.99)).linearize(torch.zeros(2, 70, dtype=torch.float64))
    krylov = Krylov(8, probe=Rademacher())
    one, both = krylov.log_det(lin, Kind.RESIDUAL), log_det_difference(krylov, lin, lin)
    assert one.bias is not None
    assert both.bias is not None
    torch.testing.assert_close(both.bias, 2 * one.bias)
    assert Exact(70).log_det(lin, Kind.RESIDUAL).bias is None
    assert log_det_difference(Exact(70), lin, lin).bias is None
