"""The eight two-dimensional densities on which flows are compared.

The laws are those of the samplers that FFJORD, Residual Flows and Monotone Flows share, drawn
without a loop over points and from an explicit `torch.Generator`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from flow_data.lookup import look_up

Points = Float[Tensor, "count 2"]
Sampler = Callable[[int, torch.Generator], Points]


@dataclass(frozen=True)
class ToyDensity:
    """A two-dimensional density.

    Attributes:
        name: Its name in the literature.
        sample: Draws `(count, 2)` float64 points on the device of the generator.
        entropy: Differential entropy in nats of one point of a large sample, by quadrature: no
            model has a lower expected negative log-likelihood. Exact for the checkerboard.
    """

    name: str
    sample: Sampler
    entropy: float


def sample_toy(
    name: str,
    count: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Points:
    """Draw fresh points of a toy density.

    Points are drawn in float64 on the device of `generator` and then converted, so a CPU generator
    gives the same points on every device and in every dtype. Some laws are stratified: a call
    returns a balanced set (equally spaced angles, equal arms), in random order.

    Args:
        name: One of `TOY_DENSITIES`.
        count: Number of points.
        generator: Source of all randomness; torch's default CPU generator if absent.
        dtype: Floating dtype of the result.
        device: Device of the result.

    Returns:
        Points of shape `(count, 2)`.

    Raises:
        ValueError: The name is unknown or the count negative.
    """
    if count < 0:
        raise ValueError(f"expected a number of points >= 0, got {count}")
    source = torch.default_generator if generator is None else generator
    density = look_up(TOY_DENSITIES, name, "toy density")
    return density.sample(count, source).to(device=device, dtype=dtype)


def _uniform(count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    return torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)


def _normal(count: int, generator: torch.Generator) -> Points:
    return torch.randn(count, 2, generator=generator, device=generator.device, dtype=torch.float64)


def _integers(high: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(high, (count,), generator=generator, device=generator.device)


def _shuffled(points: Points, generator: torch.Generator) -> Points:
    order = torch.randperm(len(points), generator=generator, device=generator.device)
    return points[order]


def _circle(count: int, radius: float, device: torch.device) -> Points:
    angle = torch.arange(count, device=device, dtype=torch.float64) * (2 * math.pi / max(count, 1))
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def _two_spirals(count: int, generator: torch.Generator) -> Points:
    """Two opposite arms r·(−cos r, sin r) + U²/2 over three, r = 3π√U, blurred by 0.1."""
    radius = 3 * math.pi * _uniform(count, generator).sqrt()
    horizontal = -radius.cos() * radius + _uniform(count, generator) / 2
    vertical = radius.sin() * radius + _uniform(count, generator) / 2
    sign = 1 - 2 * (torch.arange(count, device=generator.device) % 2)
    arms = sign[:, None] * torch.stack([horizontal, vertical], dim=1) / 3
    return _shuffled(arms, generator) + 0.1 * _normal(count, generator)


def _eight_gaussians(count: int, generator: torch.Generator) -> Points:
    """Eight Gaussians of standard deviation 0.5 on a circle of radius 4, over 1.414."""
    centres = _circle(8, 4.0, generator.device)[_integers(8, count, generator)]
    return (centres + 0.5 * _normal(count, generator)) / 1.414


def _checkerboard(count: int, generator: torch.Generator) -> Points:
    """Uniform on eight of the sixteen cells of side 2 in [−4, 4]²."""
    column = 4 * _uniform(count, generator) - 2
    row = _uniform(count, generator) - 2 * _integers(2, count, generator)
    return 2 * torch.stack([column, row + column.floor().remainder(2)], dim=1)


def _circles(count: int, generator: torch.Generator) -> Points:
    """Circles of radius 1 and 0.5 blurred by 0.08, times 3 (scikit-learn's `make_circles`)."""
    outer = count // 2
    parts = [_circle(outer, 1.0, generator.device), _circle(count - outer, 0.5, generator.device)]
    points = _shuffled(torch.cat(parts), generator)
    return 3 * (points + 0.08 * _normal(count, generator))


def _moons(count: int, generator: torch.Generator) -> Points:
    """Two half circles blurred by 0.1, times 2, shifted (scikit-learn's `make_moons`)."""
    device = generator.device
    upper = torch.linspace(0, math.pi, count // 2, device=device, dtype=torch.float64)
    lower = torch.linspace(0, math.pi, count - count // 2, device=device, dtype=torch.float64)
    horizontal = torch.cat([upper.cos(), 1 - lower.cos()])
    vertical = torch.cat([upper.sin(), 0.5 - lower.sin()])
    points = _shuffled(torch.stack([horizontal, vertical], dim=1), generator)
    points = points + 0.1 * _normal(count, generator)
    return 2 * points + torch.tensor([-1.0, -0.2], device=device, dtype=torch.float64)


def _pinwheel(count: int, generator: torch.Generator) -> Points:
    """Five Gaussian arms f, turned clockwise by 2πk/5 + exp(f₀)/4, times 2."""
    noise = _normal(count, generator)
    along, across = 0.3 * noise[:, 0] + 1, 0.1 * noise[:, 1]
    arm = torch.arange(count, device=generator.device) % 5
    angle = arm * (2 * math.pi / 5) + 0.25 * along.exp()
    horizontal = angle.cos() * along + angle.sin() * across
    vertical = angle.cos() * across - angle.sin() * along
    return _shuffled(2 * torch.stack([horizontal, vertical], dim=1), generator)


def _rings(count: int, generator: torch.Generator) -> Points:
    """Four circles of radius 3, 2.25, 1.5 and 0.75, blurred by 0.08."""
    quarter, device = count // 4, generator.device
    outer = [_circle(quarter, radius, device) for radius in (3.0, 2.25, 1.5)]
    circles = torch.cat([*outer, _circle(count - 3 * quarter, 0.75, device)])
    return _shuffled(circles, generator) + 0.08 * _normal(count, generator)


def _swiss_roll(count: int, generator: torch.Generator) -> Points:
    """The spiral t·(cos t, sin t), t ~ U(1.5π, 4.5π), blurred by 1, over 5 (`make_swiss_roll`)."""
    angle = 1.5 * math.pi * (1 + 2 * _uniform(count, generator))
    spiral = angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return (spiral + _normal(count, generator)) / 5


TOY_DENSITIES: Mapping[str, ToyDensity] = MappingProxyType(
    {
        density.name: density
        for density in (
            ToyDensity("2spirals", _two_spirals, 2.64545),
            ToyDensity("8gaussians", _eight_gaussians, 2.83188),
            ToyDensity("checkerboard", _checkerboard, math.log(32)),
            ToyDensity("circles", _circles, 3.26814),
            ToyDensity("moons", _moons, 2.39387),
            ToyDensity("pinwheel", _pinwheel, 2.31779),
            ToyDensity("rings", _rings, 2.62318),
            ToyDensity("swissroll", _swiss_roll, 2.66964),
        )
    }
)
"""The eight densities by name."""
