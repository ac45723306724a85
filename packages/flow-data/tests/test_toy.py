"""Toy densities: determinism, shapes, and agreement with samplers written point by point."""

import functools
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flow_data import TOY_DENSITIES, sample_toy
from flow_data.toy import ToyDensity
from scipy.stats import ks_2samp
from sklearn import datasets

Array = npt.NDArray[np.float64]


@functools.cache
def reference(name: str, count: int, seed: int) -> Array:
    """The published samplers, spelled out with numpy and scikit-learn."""
    rng = np.random.default_rng(seed)
    state = np.random.RandomState(seed)
    if name == "circles":
        points, _ = datasets.make_circles(count, factor=0.5, noise=0.08, random_state=state)
        return np.asarray(points * 3)
    if name == "moons":
        points, _ = datasets.make_moons(count, noise=0.1, random_state=state)
        return np.asarray(points * 2 + np.array([-1, -0.2]))
    if name == "swissroll":
        points, _ = datasets.make_swiss_roll(count, noise=1.0, random_state=state)
        return np.asarray(points[:, [0, 2]] / 5)
    return np.array([point(name, rng) for _ in range(count)])


def point(name: str, rng: np.random.Generator) -> Array:
    """One point of a law that can be drawn point by point."""
    noise = rng.standard_normal(2)
    if name == "2spirals":
        r = math.sqrt(rng.random()) * 540 * 2 * math.pi / 360
        arm = np.array([-math.cos(r) * r + rng.random() / 2, math.sin(r) * r + rng.random() / 2])
        return np.asarray((2 * rng.integers(2) - 1) * arm / 3 + 0.1 * noise)
    if name == "8gaussians":
        return (4 * direction(rng.integers(8) * math.pi / 4) + 0.5 * noise) / 1.414
    if name == "checkerboard":
        column = rng.random() * 4 - 2
        row = rng.random() - 2 * rng.integers(2) + math.floor(column) % 2
        return np.array([2 * column, 2 * row])
    if name == "pinwheel":
        f = np.array([0.3 * noise[0] + 1, 0.1 * noise[1]])
        angle = rng.integers(5) * 2 * math.pi / 5 + 0.25 * math.exp(f[0])
        c, s = direction(angle)
        return np.asarray(2 * f @ np.array([[c, -s], [s, c]]))
    radius = 3 * rng.choice([1.0, 0.75, 0.5, 0.25])
    return np.asarray(radius * direction(rng.random() * 2 * math.pi) + 0.08 * noise)


def direction(angle: float) -> Array:
    return np.array([math.cos(angle), math.sin(angle)])


PROJECTIONS = np.array([[1, 0], [0, 1], [1, 1], [1, -1], [0.9, 0.3], [0.2, -0.8]])


def smallest_p_value(first: Array, second: Array) -> float:
    """Two-sample Kolmogorov-Smirnov on six projections and the radius."""
    pairs = [(first @ axis, second @ axis) for axis in PROJECTIONS]
    pairs.append((np.hypot(*first.T), np.hypot(*second.T)))
    return min(float(np.asarray(ks_2samp(*pair))[1]) for pair in pairs)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_agrees_with_the_published_sampler(name: str) -> None:
    """False-positive rate below 7e-7 a density: seven tests at 1e-7."""
    points = sample_toy(name, 8000, generator=seeded(1), dtype=torch.float64).numpy()
    other = reference(name, 8000, seed=2)
    assert smallest_p_value(points, other) > 1e-7
    # Power: a shift is noticed.
    assert smallest_p_value(points + 0.3, other) < 1e-7


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_means_and_covariances(name: str) -> None:
    points = sample_toy(name, 50_000, generator=seeded(3), dtype=torch.float64).numpy()
    other = reference(name, 8000, seed=2)
    # Five standard errors: rate below 6e-7 for each of the five numbers.
    mean_error = 5 * other.std(axis=0) * math.sqrt(1 / 8000 + 1 / 50_000)
    assert np.all(np.abs(points.mean(axis=0) - other.mean(axis=0)) < mean_error)
    first, second = np.cov(points.T), np.cov(other.T)
    assert np.abs(first - second).max() < 5 * 1.5 * np.trace(second) / math.sqrt(8000)


@pytest.mark.parametrize("name", TOY_DENSITIES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 500])
def test_gives_exactly_the_points_asked_for(name: str, count: int) -> None:
    points = sample_toy(name, count, generator=seeded(0))
    assert points.shape == (count, 2)
    assert points.dtype == torch.float32
    assert points.isfinite().all()


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_is_fixed_by_the_seed(name: str) -> None:
    first = sample_toy(name, 100, generator=seeded(5))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = sample_toy(name, 100, generator=seeded(5))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, sample_toy(name, 100, generator=seeded(6)))


def test_successive_batches_differ() -> None:
    generator = seeded(0)
    first, second = (sample_toy("rings", 50, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)


def test_without_a_generator_the_global_one_is_used() -> None:
    torch.manual_seed(7)
    first = sample_toy("moons", 20)
    torch.manual_seed(7)
    assert torch.equal(first, sample_toy("moons", 20))


def test_the_dtype_does_not_change_the_points() -> None:
    double = sample_toy("pinwheel", 64, generator=seeded(8), dtype=torch.float64)
    single = sample_toy("pinwheel", 64, generator=seeded(8))
    assert torch.equal(double.float(), single)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_generator_and_result_may_be_on_the_device(name: str) -> None:
    on_cpu = sample_toy(name, 100, generator=seeded(1))
    moved = sample_toy(name, 100, generator=seeded(1), device="cuda")
    assert torch.equal(on_cpu, moved.cpu())
    there = sample_toy(name, 100, generator=torch.Generator("cuda").manual_seed(1), device="cuda")
    assert there.is_cuda
    assert there.isfinite().all()


@pytest.mark.parametrize("name", ["circles", "rings", "pinwheel", "2spirals", "moons"])
def test_balanced_sets_come_in_random_order(name: str) -> None:
    """A prefix of a balanced set has points of every part: halves have nearly the same mean."""
    points = sample_toy(name, 20_000, generator=seeded(2), dtype=torch.float64)
    first, second = points[:10_000], points[10_000:]
    error = 6 * points.std(dim=0) * math.sqrt(2 / 10_000)
    assert ((first.mean(dim=0) - second.mean(dim=0)).abs() < error).all()
    radius = [part.norm(dim=1).mean() for part in (first, second)]
    assert abs(radius[0] - radius[1]) < 0.1


def test_an_unknown_name_gets_suggestions() -> None:
    with pytest.raises(ValueError, match=r"got '2spiral'; did you mean 2spirals"):
        sample_toy("2spiral", 1)
    with pytest.raises(ValueError, match="use one of 2spirals, 8gaussians"):
        sample_toy("zzz", 1)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a number of points >= 0, got -1"):
        sample_toy("moons", -1)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TOY_DENSITIES["mine"] = TOY_DENSITIES["moons"]  # type: ignore[index]  # what is tested
    assert all(isinstance(value, ToyDensity) for value in TOY_DENSITIES.values())
