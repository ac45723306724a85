"""Statistical tests, where the expectation cannot be enumerated: their error rates are stated.

A two-sided z test with threshold 4.89 raises a false alarm with probability 1e-6. The biased twin
of every estimator must fail by far more, so that the tests are known to have power.
"""

from collections.abc import Callable

import pytest
import torch
from flow_logdet import (
    Diluted,
    Exact,
    Gaussian,
    Geometric,
    Kind,
    Krylov,
    NeumannGradient,
    PowerSeries,
    Probe,
    Rademacher,
    Roulette,
    StochasticEstimator,
)
from flow_solvers.maps import BoundMap
from torch import Tensor

MapMaker = Callable[..., BoundMap]
COUNT = 5_000
THRESHOLD = 4.89


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(2024)


def scores(
    estimator: StochasticEstimator, bound: BoundMap, w: Tensor, kind: Kind
) -> tuple[float, float]:
    """z scores of the value and of a directional derivative, from COUNT copies of one point."""
    copies = w.expand(COUNT, *w.shape[1:]).clone().requires_grad_()
    value = estimator.log_det(estimator.linearize(bound, copies), kind).value
    (gradient,) = torch.autograd.grad(value.sum(), copies)
    point = w.clone().requires_grad_()
    exact = Exact(limit=200).log_det(bound.linearize(point), kind).value
    (exact_gradient,) = torch.autograd.grad(exact.sum(), point)
    along = exact_gradient / exact_gradient.norm()
    return (
        score(value.detach(), exact.detach()),
        score((gradient * along).flatten(1).sum(1), (exact_gradient * along).sum()),
    )


def score(samples: Tensor, mean: Tensor) -> float:
    return float(((samples.mean() - mean) / (samples.std() / len(samples) ** 0.5)).abs())


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("probe", [Rademacher(), Gaussian(), Diluted()])
def test_krylov_with_every_probe(
    dense_map: MapMaker, first_order_map: type, kind: Kind, probe: Probe
) -> None:
    bound = dense_map(6, norm=0.9, kind=first_order_map)
    w = torch.randn(1, 6, dtype=torch.float64)
    estimator = Krylov(steps=6, probe=probe, tolerance=0.0)
    assert max(scores(estimator, bound, w, kind)) < THRESHOLD


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("neumann", [False, True])
def test_roulette_per_sample(dense_map: MapMaker, kind: Kind, neumann: bool) -> None:
    bound = dense_map(4, norm=0.7)
    w = torch.randn(1, 4, dtype=torch.float64)
    jacobian = bound.linearize(w).jacobian().detach()
    length = Geometric(0.3)
    assert torch.linalg.eigvals(jacobian).abs().max() < length.variance_radius()
    roulette = Roulette(length, exact_terms=1, per_sample=True, samples=2)
    estimator = NeumannGradient(roulette) if neumann else roulette
    assert max(scores(estimator, bound, w, kind)) < THRESHOLD


@pytest.mark.parametrize("kind", Kind)
def test_biased_twins_are_caught(gradient_map: MapMaker, kind: Kind) -> None:
    bound = gradient_map(4, norm=0.9)
    w = torch.linspace(0.2, 0.8, 4, dtype=torch.float64).unsqueeze(0)
    twins: list[StochasticEstimator] = [
        PowerSeries(1),
        Krylov(steps=1, tolerance=0.0),
        Krylov(steps=4, probe=Shrunk()),
        Roulette(Overstated(), exact_terms=1, per_sample=True),
    ]
    for twin in twins:
        value, gradient = scores(twin, bound, w, kind)
        assert value > 2 * THRESHOLD
        assert gradient > 2 * THRESHOLD


class Shrunk:
    """Signs that are too small."""

    def draw(self, point: Tensor, count: int) -> Tensor:
        return 0.7 * Rademacher().draw(point, count)


class Overstated:
    """A geometric length whose survival function is that of another one."""

    def draw(self, size: tuple[int, ...]) -> Tensor:
        return Geometric(0.5).draw(size)

    def survival(self, count: int) -> Tensor:
        return Geometric(0.2).survival(count)

    def variance_radius(self) -> float:
        return 0.7
