"""The defaults and the published estimators, by name."""

from collections.abc import Callable

import pytest
import torch
from flow_logdet import (
    PUBLISHED,
    Diluted,
    Estimator,
    Exact,
    Fixed,
    Kind,
    Krylov,
    NeumannSurrogate,
    Poisson,
    default_estimator,
    published_estimator,
)
from flow_solvers.maps import BoundMap

MapMaker = Callable[..., BoundMap]


@pytest.mark.parametrize(("training", "limit"), [(True, 16), (False, 64)])
def test_defaults_are_exact_in_small_dimension(training: bool, limit: int) -> None:
    assert isinstance(default_estimator(1, training), Exact)
    assert isinstance(default_estimator(limit, training), Exact)
    assert isinstance(default_estimator(limit + 1, training), Krylov)


def test_evaluation_is_diluted_and_reports_an_error(dense_map: MapMaker) -> None:
    estimator = default_estimator(108, training=False)
    assert isinstance(estimator, Krylov)
    assert isinstance(estimator.probe, Diluted)
    # Of two, two standard errors hold 70 % of the truths.
    assert estimator.probes == 4
    bound = dense_map(3, kernel=3, norm=0.7)
    w = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        lin = bound.linearize(w)
        result = estimator.log_det(lin, Kind.MONOTONE)
        exact = Exact(limit=108).log_det(lin, Kind.MONOTONE).value
    assert result.standard_error is not None
    assert (result.value - exact).abs().max() < 0.1 * exact.abs().min()


@pytest.mark.parametrize("name", sorted(PUBLISHED))
@pytest.mark.parametrize("kind", Kind)
def test_published_estimators_run_and_train(dense_map: MapMaker, name: str, kind: Kind) -> None:
    estimator = published_estimator(name)
    assert isinstance(estimator, Estimator)
    bound = dense_map(2)
    w = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    result = estimator.log_det(estimator.linearize(bound, w), kind)
    (gradient,) = torch.autograd.grad(result.value.sum(), w)
    assert torch.isfinite(gradient).all()
    with torch.no_grad():
        assert not estimator.log_det(bound.linearize(w), kind).value.requires_grad


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*brute-force.* got 'best'"):
        published_estimator("best")


@pytest.mark.parametrize("kind", Kind)
def test_the_surrogate_is_the_published_formula(dense_map: MapMaker, kind: Kind) -> None:
    """⟨Jᵀε, s⟩ with s = a₁ε + Σ_{k ≤ n} (k+1)·a_{k+1} c_k Jᵏε, term by term."""
    bound, w = dense_map(4), torch.randn(3, 4, dtype=torch.float64)
    probe = torch.randn(1, 3, 4, dtype=torch.float64)
    length, exact_terms = Poisson(2.0), 2
    jacobian = bound.linearize(w).jacobian()
    torch.manual_seed(6)
    drawn = int(length.draw((1, 1, 1)))
    assert drawn > 0
    torch.manual_seed(6)
    found = NeumannSurrogate(length, exact_terms, Fixed(probe)).log_det(bound.linearize(w), kind)

    a = {1: {Kind.RESIDUAL: 1.0, Kind.MONOTONE: -2.0}[kind]}
    for k in range(2, drawn + exact_terms + 2):
        odd = -2.0 / k if k % 2 else 0.0
        a[k] = (-1) ** (k + 1) / k if kind is Kind.RESIDUAL else odd
    survival = length.survival(drawn)
    power, s = probe[0], a[1] * probe[0]
    for k in range(1, drawn + exact_terms + 1):
        power = (jacobian @ power.unsqueeze(-1)).squeeze(-1)
        weight = 1.0 if k <= exact_terms else 1 / float(survival[k - exact_terms - 1])
        s = s + (k + 1) * a[k + 1] * weight * power
    expected = ((jacobian.mT @ probe[0].unsqueeze(-1)).squeeze(-1) * s).sum(1)
    torch.testing.assert_close(found.value, expected)
    assert found.products == drawn + exact_terms + 1
