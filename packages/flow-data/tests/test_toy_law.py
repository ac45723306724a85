"""Every toy density against its law written down independently, as a density.

`LAWS[name](x, y)` is the density on the grid x × y, by quadrature over the noiseless shape. It
gives the entropy, and the mass of the cells in which the samples are counted.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flow_data import TOY_DENSITIES, sample_toy
from scipy.special import ndtr
from scipy.stats import chi2

Array = npt.NDArray[np.float64]
Law = Callable[[Array, Array], Array]


def gaussian(x: Array, centre: Array, sd: float) -> Array:
    return np.exp(-0.5 * ((x[:, None] - centre) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))


def smoothed_box(x: Array, low: Array, width: float, sd: float) -> Array:
    upper = ndtr((x[:, None] - low) / sd)
    return np.asarray((upper - ndtr((x[:, None] - low - width) / sd)) / width)


def blurred(shape: Array, weight: Array, sd: float) -> Law:
    """Density of a weighted set of points plus isotropic Gaussian noise."""

    def density(x: Array, y: Array) -> Array:
        return np.asarray((gaussian(x, shape[0], sd) * weight) @ gaussian(y, shape[1], sd).T)

    return density


def circles(radii: list[float], sd: float) -> Law:
    angle = np.arange(512) * (2 * math.pi / 512)
    shape = np.concatenate([r * np.stack([np.cos(angle), np.sin(angle)]) for r in radii], axis=1)
    return blurred(shape, np.full(shape.shape[1], 1 / shape.shape[1]), sd)


def midpoints(low: float, high: float, count: int) -> Array:
    return low + (high - low) * (np.arange(count) + 0.5) / count


def moons() -> Law:
    t = midpoints(0, math.pi, 400)
    upper = np.stack([2 * np.cos(t) - 1, 2 * np.sin(t) - 0.2])
    lower = np.stack([1 - 2 * np.cos(t), 0.8 - 2 * np.sin(t)])
    return blurred(np.concatenate([upper, lower], axis=1), np.full(800, 1 / 800), 0.2)


def swiss_roll() -> Law:
    t = midpoints(1.5 * math.pi, 4.5 * math.pi, 2000)
    return blurred(np.stack([t * np.cos(t), t * np.sin(t)]) / 5, np.full(2000, 1 / 2000), 0.2)


def two_spirals(x: Array, y: Array) -> Array:
    r = midpoints(0, 3 * math.pi, 2000)
    weight = r / r.sum() / 2
    # Each coordinate gets its own U(0, 1)/2, over 3 like the arm.
    width = 0.5 / 3
    first = -np.cos(r) * r / 3
    second = np.sin(r) * r / 3
    arm = smoothed_box(x, first, width, 0.1) * weight @ smoothed_box(y, second, width, 0.1).T
    first, second = -first - width, -second - width
    other = smoothed_box(x, first, width, 0.1) * weight @ smoothed_box(y, second, width, 0.1).T
    return np.asarray(arm + other)


def eight_gaussians() -> Law:
    angle = np.arange(8) * (math.pi / 4)
    shape = 4 / 1.414 * np.stack([np.cos(angle), np.sin(angle)])
    return blurred(shape, np.full(8, 1 / 8), 0.5 / 1.414)


def checkerboard(x: Array, y: Array) -> Array:
    inside = (np.abs(x)[:, None] < 4) & (np.abs(y) < 4)
    # Cells of one colour: (column + row) even, counted from the middle.
    colour = (np.floor(x / 2)[:, None] + np.floor(y / 2)) % 2
    return np.where(inside & (colour == 0), 1 / 32, 0.0)


def pinwheel_at(points: Array) -> Array:
    """Density of the pinwheel at points `(count, 2)`.

    An arm maps f to 2 R(−θ(f₀)) f with θ = 2πk/5 + exp(f₀)/4; its determinant is
    4·|1 + f₁ exp(f₀)/4|, and f₀ = ρ cos(φ + θ(f₀)) for a point at 2ρ(cos φ, sin φ).
    """
    radius = np.hypot(points[:, 0], points[:, 1])[:, None] / 2
    angle = np.arctan2(points[:, 1], points[:, 0])[:, None] + 2 * math.pi / 5 * np.arange(5)
    along = np.tile(radius, 5)
    for _ in range(40):
        turned = angle + np.exp(along) / 4
        slope = 1 + radius * np.sin(turned) * np.exp(along) / 4
        along = along - np.clip((along - radius * np.cos(turned)) / slope, -0.3, 0.3)
    turned = angle + np.exp(along) / 4
    solved = np.abs(along - radius * np.cos(turned)) < 1e-9
    across = radius * np.sin(turned)
    total = np.exp(-0.5 * (((along - 1) / 0.3) ** 2 + (across / 0.1) ** 2)) / (0.06 * math.pi)
    jacobian = 4 * np.abs(1 + across * np.exp(along) / 4)
    return np.asarray(np.where(solved, total / jacobian, 0.0).sum(axis=1) / 5)


def pinwheel(x: Array, y: Array) -> Array:
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    return pinwheel_at(points).reshape(len(x), len(y))


LAWS: dict[str, Law] = {
    "2spirals": two_spirals,
    "8gaussians": eight_gaussians(),
    "checkerboard": checkerboard,
    "circles": circles([3.0, 1.5], 0.24),
    "moons": moons(),
    "pinwheel": pinwheel,
    "rings": circles([3.0, 2.25, 1.5, 0.75], 0.08),
    "swissroll": swiss_roll(),
}

CELL = 0.25
EXTENT = 6.0
# A true law is rejected with this probability at most; balanced samples are rejected less often.
FALSE_POSITIVE_RATE = 1e-6


@functools.cache
def density_grid(name: str) -> tuple[Array, float]:
    step = 0.05 if name == "pinwheel" else 0.025
    x = midpoints(-EXTENT, EXTENT, round(2 * EXTENT / step))
    return LAWS[name](x, x), step


def cell_masses(name: str) -> Array:
    density, step = density_grid(name)
    cells, inside = round(2 * EXTENT / CELL), round(CELL / step)
    blocks = density.reshape(cells, inside, cells, inside)
    return np.asarray(blocks.sum(axis=(1, 3)) * step**2)


def p_value(name: str, points: Array) -> float:
    """Chi-square test of the counts in cells; cells that expect below ten points are pooled."""
    edges = np.linspace(-EXTENT, EXTENT, round(2 * EXTENT / CELL) + 1)
    observed = np.histogram2d(points[:, 0], points[:, 1], bins=[edges, edges])[0]
    expected = cell_masses(name) * len(points)
    big = expected >= 10
    rest = len(points) - expected[big].sum()
    terms = (observed[big] - expected[big]) ** 2 / expected[big]
    # Ten more keep the pooled term finite where the law has no tail; it can only shrink.
    pooled = (len(points) - observed[big].sum() - rest) ** 2 / (rest + 10)
    return float(chi2.sf(terms.sum() + pooled, big.sum()))


def draw(name: str, count: int) -> Array:
    generator = torch.Generator().manual_seed(20)
    return sample_toy(name, count, generator=generator, dtype=torch.float64).numpy()


def test_every_density_has_a_law() -> None:
    assert set(LAWS) == set(TOY_DENSITIES)


@pytest.mark.parametrize("name", LAWS)
def test_entropy(name: str) -> None:
    density, step = density_grid(name)
    positive = density[density > 0]
    assert positive.sum() * step**2 == pytest.approx(1.0, abs=1e-6)
    entropy = -(positive * np.log(positive)).sum() * step**2
    assert TOY_DENSITIES[name].entropy == pytest.approx(entropy, abs=2e-5)


@pytest.mark.parametrize("name", LAWS)
def test_samples_follow_the_law(name: str) -> None:
    assert p_value(name, draw(name, 60_000)) > FALSE_POSITIVE_RATE


@pytest.mark.parametrize("name", LAWS)
def test_the_law_rejects_a_wrong_scale(name: str) -> None:
    assert p_value(name, 1.03 * draw(name, 60_000)) < FALSE_POSITIVE_RATE


@pytest.mark.parametrize("name", ["2spirals", "checkerboard", "moons", "pinwheel", "swissroll"])
def test_the_law_rejects_the_mirror_image(name: str) -> None:
    mirrored = draw(name, 60_000) * np.array([1.0, -1.0])
    assert p_value(name, mirrored) < FALSE_POSITIVE_RATE


@pytest.mark.parametrize("name", ["2spirals", "checkerboard", "pinwheel", "rings"])
def test_the_law_rejects_too_much_noise(name: str) -> None:
    points = draw(name, 60_000)
    extra = 0.05 * np.random.default_rng(0).standard_normal(points.shape)
    assert p_value(name, points + extra) < FALSE_POSITIVE_RATE
