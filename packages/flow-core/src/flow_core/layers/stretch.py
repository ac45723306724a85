"""How far maps of single values can stretch a sample: as far as their slopes."""

import math

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds, ratio
from flow_core.domain import Domain, LocalBounds
from flow_core.lipschitz.plain import by_lipschitz, product, widened_down, widened_up
from flow_core.passes import Direction


def from_slopes(lowest: float, highest: float) -> Bounds:
    """Bounds of a map of single values whose slopes lie between two positive numbers."""
    return Bounds(highest, ratio(1.0, lowest))


# Above the error of an evaluation in float32.
_EVALUATION = 1e-5


@torch.no_grad()
def scaled(domain: Domain, scale: Tensor, shift: Tensor) -> LocalBounds:
    """Of y = a·x + b with numbers that belong to channels, or to all values of a sample."""
    factor, offset = in_float64(scale.detach()), in_float64(shift.detach())
    ends = torch.stack([_times(factor, domain.lower), _times(factor, domain.upper)]) + offset
    most, least = float(factor.abs().max()), float(factor.abs().min())
    repeats = math.prod(domain.shape) / max(offset.numel(), 1)
    image = domain.image(
        widened_down(float(ends.min())),
        widened_up(float(ends.max())),
        widened_up(product(most, domain.norm) + math.sqrt(repeats) * float(offset.norm())),
    )
    return LocalBounds(Bounds(widened_up(most), widened_up(ratio(1.0, least))), image)


@torch.no_grad()
def elementwise(
    layer: Bijection, slopes: Bounds, domain: Domain, direction: Direction
) -> LocalBounds:
    """Of an increasing map of single values with known slopes: it maps ends to ends."""
    function = layer.transform if direction == "transform" else layer.inverse
    lipschitz = slopes.transform if direction == "transform" else slopes.inverse
    parameter = next(layer.parameters(), None)
    like = torch.zeros((), dtype=torch.float64) if parameter is None else parameter.detach()
    # Single values of any shape: only those of a shape of their own have one spline for each.
    points = torch.stack([like.new_full(domain.shape, v) for v in (domain.lower, domain.upper)])
    low, high = in_float64(function(points))
    norm = by_lipschitz(function, lipschitz, domain, like).image.norm
    image = domain.image(float(low.min()), float(high.max()), norm).wider(_EVALUATION)
    return LocalBounds(slopes, image)


def _times(factor: Tensor, value: float) -> Tensor:
    return torch.where(factor == 0, 0.0, factor * value)


@torch.no_grad()
def from_log_scales(log_scale: Tensor) -> Bounds:
    """Bounds of a map that multiplies by e^w in one direction and by e^(−w) in the other."""
    lowest, highest = in_float64(log_scale).aminmax()
    return Bounds(widened_up(float(highest.exp())), widened_up(float((-lowest).exp())))


def log_added(log_scale: Float[Tensor, "*shape"], epsilon: float) -> Float[Tensor, "*shape"]:
    """log(s + ε) of log s, in nats."""
    if epsilon == 0:
        return log_scale
    return torch.logaddexp(log_scale, torch.full_like(log_scale, math.log(epsilon)))
