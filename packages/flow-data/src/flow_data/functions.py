"""Increasing one-dimensional functions that separate the expressive powers of invertible blocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from flow_data.lookup import look_up

Column = Float[Tensor, "count 1"]
Elementwise = Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]


@dataclass(frozen=True)
class Target:
    """A function to fit and the interval on which its inputs are uniform.

    Attributes:
        name: Its name.
        function: Elementwise map.
        domain: Ends of the interval.
    """

    name: str
    function: Elementwise
    domain: tuple[float, float]


def sample_target(
    name: str,
    count: int,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Column, Column]:
    """Draw inputs uniformly from the domain of a target and evaluate it.

    Inputs are drawn in float64 on the device of `generator` and then converted; the function is
    evaluated on the converted inputs.

    Args:
        name: One of `TARGETS`.
        count: Number of pairs.
        generator: Source of all randomness; torch's default CPU generator if absent.
        dtype: Floating dtype of the result.
        device: Device of the result.

    Returns:
        Inputs x and values y, each of shape `(count, 1)`.

    Raises:
        ValueError: The name is unknown or the count negative.
    """
    if count < 0:
        raise ValueError(f"expected a number of pairs >= 0, got {count}")
    target = look_up(TARGETS, name, "target function")
    low, high = target.domain
    source = torch.default_generator if generator is None else generator
    unit = torch.rand(count, 1, generator=source, device=source.device, dtype=torch.float64)
    x = (low + (high - low) * unit).to(device=device, dtype=dtype)
    return x, target.function(x)


def _step(w: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """t(w) = min(max(0, αw, min((w − (1 − α))/α, 1)), 1) with α = 0.05."""
    steep = ((w - 0.95) / 0.05).clamp(max=1.0)
    return torch.maximum((0.05 * w).clamp(min=0.0), steep).clamp(max=1.0)


def _multiple_steps(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """t(x + 2) + t(x + 1) + t(x) + t(x − 1): slopes 0.05 and 20 (Monotone Flows, Fig. 4)."""
    return _step(x + 2) + _step(x + 1) + _step(x) + _step(x - 1)


def _kink(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """max(0, 10x) + min(0, x/10): slope 0.1, then 10 (Implicit Normalizing Flows, Fig. 1)."""
    return (10 * x).clamp(min=0.0) + (x / 10).clamp(max=0.0)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target("multiplestepfunc", _multiple_steps, (-2.0, 2.0)),
            Target("impflowfunc", _kink, (-1.0, 1.0)),
            Target("impflow1d", _kink, (-1.0, 0.2)),
        )
    }
)
"""The functions by name; `impflow1d` is `impflowfunc` on the interval of ImpFlow's figure."""
