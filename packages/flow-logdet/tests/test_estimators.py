"""Values and gradients of every estimator against the exact ones.

The mean over all 2^d sign vectors is an expectation, so unbiasedness is checked to rounding; so is
that over all lengths of a roulette with bounded support.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import unwrap
from typing import Any, cast

import pytest
import torch
from flow_logdet import (
    Exact,
    Fixed,
    Gaussian,
    Geometric,
    Kind,
    Krylov,
    NeumannGradient,
    NeumannSurrogate,
    PowerSeries,
    Recompute,
    Roulette,
    StochasticEstimator,
)
from flow_logdet.estimator import Estimator
from flow_solvers.maps import BoundMap, Linearization
from torch import Tensor

MapMaker = Callable[..., BoundMap]
Signs = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Uniform:
    """N uniform on {1, ..., last}: a length whose expectation can be enumerated."""

    last: int
    forced: int = 1

    def draw(self, size: tuple[int, ...]) -> Tensor:
        return torch.full(size, self.forced)

    def survival(self, count: int) -> Tensor:
        return 1 - torch.arange(count, dtype=torch.float64) / self.last

    def variance_radius(self) -> float:
        return 1.0


def point(batch: int = 4, channels: int = 3, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(batch, channels, generator=generator, dtype=torch.float64)
    return w.requires_grad_()


def gradients(estimator: Estimator, bound: BoundMap, w: Tensor, kind: Kind) -> list[Tensor]:
    """The value, then the gradients of Σ weight_b·value_b with very different weights."""
    value = estimator.log_det(estimator.linearize(bound, w), kind).value
    weights = torch.logspace(-2, 2, len(w), dtype=w.dtype)
    leaves = [w, *bound.tensors()]
    return [value.detach(), *torch.autograd.grad(value, leaves, weights, allow_unused=True)]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-9) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def enumerated(probes: Tensor) -> list[StochasticEstimator]:
    """Estimators without a bias that could be seen, on all sign vectors."""
    fixed, count = Fixed(probes), len(probes)
    series = PowerSeries(99, probe=fixed, probes=count)
    return [
        Krylov(steps=3, probe=fixed, probes=count, tolerance=0.0),
        Krylov(steps=3, probe=fixed, probes=count, tolerance=0.0, chunk=3),
        Krylov(steps=6, probe=fixed, probes=count),
        Krylov(steps=6, probe=fixed, probes=count, tolerance=1e-13),
        series,
        NeumannGradient(series),
        replace(series, control_variate=True),
        NeumannGradient(replace(series, control_variate=True)),
    ]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("index", range(8))
def test_mean_over_all_signs_is_exact(
    dense_map: MapMaker,
    first_order_map: type,
    all_signs: Signs,
    kind: Kind,
    index: int,
) -> None:
    bound = dense_map(3, norm=0.6, kind=first_order_map)
    w = point()
    estimator = enumerated(all_signs(w.detach()))[index]
    expected = gradients(Exact(), bound, w, kind)
    assert_same(gradients(estimator, bound, w, kind), expected)
    assert_same(gradients(Recompute(estimator), bound, w, kind), expected)
    assert all(g.abs().max() > 1e-3 for g in expected)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("exact_terms", [0, 1, 3])
@pytest.mark.parametrize("neumann", [False, True])
def test_mean_over_all_lengths_is_the_series(
    dense_map: MapMaker, all_signs: Signs, kind: Kind, exact_terms: int, neumann: bool
) -> None:
    bound, w, last = dense_map(3, norm=0.6), point(), 4
    signs = all_signs(w.detach())
    fixed, count = Fixed(signs), len(signs)
    series = PowerSeries(exact_terms + last, probe=fixed, probes=count)
    expected = gradients(series, bound, w, kind)
    sums = [torch.zeros_like(e) for e in expected]
    for forced in range(1, last + 1):
        roulette = Roulette(
            Uniform(last, forced), exact_terms=exact_terms, probe=fixed, probes=count
        )
        estimator = NeumannGradient(roulette) if neumann else roulette
        found = gradients(estimator, bound, w, kind)
        sums = [s + f / last for s, f in zip(sums, found, strict=True)]
    assert_same(sums, expected)


@pytest.mark.parametrize("kind", Kind)
def test_a_series_has_the_derivative_of_the_sum_it_returns(dense_map: MapMaker, kind: Kind) -> None:
    bound, w = dense_map(3, norm=0.9, growth=2, depth=1), point(2)
    torch.manual_seed(0)
    probes = Fixed(torch.randn(2, *w.shape, dtype=w.dtype))
    for estimator in (
        PowerSeries(4, probe=probes, probes=2),
        Roulette(Uniform(3, forced=2), exact_terms=2, probe=probes, probes=2),
    ):

        def value(x: Tensor, *tensors: Tensor, rule: Estimator = estimator) -> Tensor:
            changed = bound.with_tensors(tensors)
            return rule.log_det(rule.linearize(changed, x), kind).value

        assert torch.autograd.gradcheck(value, (w, *bound.tensors()))


@pytest.mark.parametrize("kind", Kind)
def test_neumann_gradient_keeps_an_honest_value(
    dense_map: MapMaker, all_signs: Signs, kind: Kind
) -> None:
    bound, w = dense_map(3, norm=0.9), point()
    probes = all_signs(w.detach())
    series = PowerSeries(80, probe=Fixed(probes), probes=len(probes))
    exact = gradients(Exact(), bound, w, kind)
    assert_same(gradients(NeumannGradient(series), bound, w, kind), exact)

    jacobian = bound.linearize(w).jacobian()
    eye = torch.eye(3, dtype=torch.float64)
    slope = sum((c * s * torch.linalg.inv(eye + s * jacobian) for s, c in kind.pairs), 0 * jacobian)
    wrong = (jacobian @ slope).diagonal(dim1=1, dim2=2).sum(1)
    found = [
        gradients(NeumannSurrogate(Geometric(1 - 1e-12), 80, Fixed(p[None])), bound, w, kind)
        for p in probes
    ]
    mean = [torch.stack(parts).mean(0) for parts in zip(*found, strict=True)]
    torch.testing.assert_close(mean[0], wrong.detach())
    assert (mean[0] - exact[0]).abs().min() > 1e-3
    assert_same(mean[1:], exact[1:])


@pytest.mark.parametrize("kind", Kind)
def test_control_variate_changes_samples_and_not_the_mean(
    dense_map: MapMaker, first_order_map: type, all_signs: Signs, kind: Kind
) -> None:
    w = point()
    bound = dense_map(3, norm=0.6, kind=first_order_map)
    signs = all_signs(w.detach())
    spread: dict[bool, Tensor] = {}
    for controlled in (False, True):
        krylov = Krylov(steps=3, tolerance=0.0, control_variate=controlled)
        samples = [gradients(replace(krylov, probe=Fixed(s[None])), bound, w, kind) for s in signs]
        columns = [torch.stack(parts) for parts in zip(*samples, strict=True)]
        assert_same([c.mean(0) for c in columns], gradients(Exact(), bound, w, kind))
        spread[controlled] = columns[0].var(0).mean()
    assert spread[True] < 0.3 * spread[False]


@pytest.mark.parametrize("kind", Kind)
def test_images(dense_map: MapMaker, first_order_map: type, kind: Kind) -> None:
    bound = dense_map(2, kernel=3, norm=0.5, kind=first_order_map)
    w = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    units = torch.eye(8, dtype=torch.float64).view(8, 1, 2, 2, 2).expand(8, *w.shape)
    # Scaled unit vectors average to the identity as well.
    fixed = Fixed(units * 8**0.5)
    for estimator in (
        Krylov(steps=8, probe=fixed, probes=8, tolerance=0.0),
        NeumannGradient(PowerSeries(99, probe=fixed, probes=8, control_variate=True)),
    ):
        assert_same(gradients(estimator, bound, w, kind), gradients(Exact(), bound, w, kind))


def test_scalars_and_empty_batches(dense_map: MapMaker) -> None:
    bound = dense_map(3)
    for estimator in (Krylov(), PowerSeries(3), Roulette(), NeumannGradient(Roulette())):
        w = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
        lin = estimator.linearize(bound, w)
        assert estimator.log_det(lin, Kind.RESIDUAL).value.shape == (0,)


@pytest.mark.parametrize("kind", Kind)
def test_float32_agrees_with_float64(dense_map: MapMaker, all_signs: Signs, kind: Kind) -> None:
    w = point()
    probes = all_signs(w.detach())
    estimator = Krylov(steps=3, probe=Fixed(probes), probes=len(probes), tolerance=0.0)
    double = gradients(estimator, dense_map(3), w, kind)
    leaf = w.detach().float().requires_grad_()
    single = gradients(estimator, dense_map(3, dtype=torch.float32), leaf, kind)
    assert all(g.dtype == torch.float32 for g in single)
    assert_same([g.double() for g in single], double, tolerance=2e-4)


def test_standard_error_is_that_of_the_mean(dense_map: MapMaker) -> None:
    bound = dense_map(8, norm=0.8)
    torch.manual_seed(0)
    copies = point(1, 8).detach().expand(400, 8)
    with torch.no_grad():
        lin = bound.linearize(copies)
        result = Krylov(steps=8, probes=4).log_det(lin, Kind.MONOTONE)
        assert Krylov(probes=1).log_det(lin, Kind.MONOTONE).standard_error is None
    assert result.standard_error is not None
    ratio = float(result.standard_error.square().mean() / result.value.var())
    # Relative sd of the ratio is about sqrt(2/400 + 2/1200) = .08 for normal samples.
    assert 0.6 < ratio < 1.5


@pytest.mark.parametrize(("probes", "share"), [(2, 0.70), (4, 0.86), (8, 0.91)])
def test_two_standard_errors_hold_what_is_promised(
    dense_map: MapMaker, probes: int, share: float
) -> None:
    """Of each sample, and pooled over samples, where the share is 95 %."""
    torch.manual_seed(0)
    copies = point(1, 24).detach().expand(2000, 24)
    with torch.no_grad():
        lin = dense_map(24, norm=0.9, growth=12).linearize(copies)
        found = Krylov(steps=8, probes=probes).log_det(lin, Kind.RESIDUAL)
        error = (found.value - Exact().log_det(lin, Kind.RESIDUAL).value).abs()
    assert found.standard_error is not None
    covered = float((error <= 2 * found.standard_error).double().mean())
    pooled = float((error <= 2 * found.standard_error.square().mean().sqrt()).double().mean())
    # Standard deviations of the shares are below .0105 and .005: false alarms below 1e-3.
    assert abs(covered - share) < 0.04
    assert abs(pooled - 0.954) < 0.02


def test_products_are_counted(dense_map: MapMaker) -> None:
    bound, w = dense_map(8, norm=0.8), point(3, 8)
    counting = Counting(bound.linearize(w))
    cases: list[tuple[StochasticEstimator, Kind]] = [
        (Krylov(steps=5, tolerance=0.0, probes=2), Kind.RESIDUAL),
        (Krylov(steps=5, tolerance=0.0, probes=3, chunk=2), Kind.MONOTONE),
        (PowerSeries(6), Kind.RESIDUAL),
        (PowerSeries(6), Kind.MONOTONE),
        (PowerSeries(1), Kind.MONOTONE),
        (NeumannGradient(PowerSeries(6, probes=2)), Kind.MONOTONE),
        (Roulette(Uniform(9, forced=4), exact_terms=3), Kind.RESIDUAL),
    ]
    expected = [2 * 5 + 2, 3 * 5 + 3, 6 + 4 + 6, 5 + 3 + 5, 2, 2 * 5 + 2, 7 + 5 + 7]
    for (estimator, kind), products in zip(cases, expected, strict=True):
        counting.products = 0
        result = estimator.log_det(counting, kind)
        assert result.products == counting.products == products
    with torch.no_grad():
        for estimator, kind in cases[:4]:
            counting.products = 0
            assert estimator.log_det(counting, kind).products == counting.products


def test_krylov_stops_at_its_tolerance(dense_map: MapMaker) -> None:
    bound, w = dense_map(12, norm=0.5), point(3, 12)
    lin = bound.linearize(w)
    with torch.no_grad():
        counts = [
            Krylov(steps=12, tolerance=t).log_det(lin, Kind.RESIDUAL).products
            for t in (1e-1, 1e-3, 1e-6, 0.0)
        ]
    assert counts == sorted(counts)
    assert counts[0] < counts[2] < counts[3] == 12


def test_a_zero_jacobian(dense_map: MapMaker) -> None:
    bound = dense_map(3, norm=0.0)
    w = point()
    for estimator in (Krylov(), PowerSeries(4), Roulette(Geometric(0.5))):
        value, *rest = gradients(estimator, bound, w, Kind.RESIDUAL)
        assert not value.any()
        assert all(torch.isfinite(g).all() for g in rest)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="steps to be at least 1, got 0"):
        Krylov(steps=0)
    with pytest.raises(ValueError, match="tolerance of at least 0"):
        Krylov(tolerance=-1.0)
    with pytest.raises(ValueError, match="terms to be at least 1"):
        PowerSeries(0)
    with pytest.raises(ValueError, match="exact_terms to be at least 0"):
        Roulette(exact_terms=-1)
    with pytest.raises(ValueError, match="probes to be at least 1"):
        Roulette(probe=Gaussian(), probes=0)
    with pytest.raises(ValueError, match="limit to be at least 1"):
        Exact(limit=0)
    unchecked = unwrap(NeumannGradient.__init__)  # as it is without checks of types
    with pytest.raises(TypeError, match="series to be a PowerSeries or a Roulette, got Exact"):
        unchecked(NeumannGradient(PowerSeries(4)), cast(Any, Exact()))


def test_an_empty_batch_has_empty_values_and_errors(dense_map: MapMaker) -> None:
    bound = dense_map(3)
    for estimator in (Exact(), Krylov(probes=2), PowerSeries(4, probes=2)):
        linearization = estimator.linearize(bound, torch.zeros(0, 3, dtype=torch.float64))
        found = estimator.log_det(linearization, Kind.MONOTONE)
        assert found.value.shape == (0,)
        assert found.standard_error is None or found.standard_error.shape == (0,)


class Counting:
    """A linearization that counts the vectors it multiplies."""

    def __init__(self, inner: Linearization) -> None:
        self.inner = inner
        self.bound, self.point, self.value = inner.bound, inner.point, inner.value
        self.products = 0

    def jvp(self, tangent: Tensor) -> Tensor:
        self.products += tangent.numel() // self.point.numel()
        return self.inner.jvp(tangent)

    def vjp(self, cotangent: Tensor) -> Tensor:
        self.products += cotangent.numel() // self.point.numel()
        return self.inner.vjp(cotangent)

    def jacobian(self) -> Tensor:
        raise NotImplementedError

    def select(self, index: Tensor) -> "Counting":
        raise NotImplementedError
