"""Where an attack may move, kept exactly in the precision of the samples."""

import math
from dataclasses import dataclass

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_core.diagnostics.attack.ascent import Limits


@dataclass(frozen=True)
class Ball:
    """All x with lower ≤ x ≤ upper, value by value.

    Attributes:
        lower: Smallest values.
        upper: Largest values.
    """

    lower: Float[Tensor, " batch *shape"]
    upper: Float[Tensor, " batch *shape"]

    @classmethod
    def around(cls, x: Float[Tensor, " batch *shape"], epsilon: float, limits: Limits) -> "Ball":
        """|x' − x| ≤ ε in exact arithmetic, inside of the limits.

        Raises:
            ValueError: If x itself is outside of the limits.
        """
        low, high = _limits(x, limits)
        outside = ((x < low) | (x > high)).any()
        if bool(outside):
            raise ValueError(
                f"limits: expected samples in {limits}, got values from {float(x.min()):.4g} to "
                f"{float(x.max()):.4g}; give limits that have the samples, or None"
            )
        lower, upper = (_within(x, sign * epsilon, epsilon) for sign in (-1, 1))
        return cls(torch.maximum(lower, low), torch.minimum(upper, high))

    def nearest(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """The projection."""
        return torch.minimum(torch.maximum(x, self.lower), self.upper)


def _limits(x: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    if limits == "own":
        ones = (1,) * (x.ndim - 1)
        values = x.reshape(len(x), -1)
        low, high = values.amin(1).reshape(-1, *ones), values.amax(1).reshape(-1, *ones)
        return low, high
    bounds = (-math.inf, math.inf) if limits is None else limits
    return x.new_tensor(bounds[0]), x.new_tensor(bounds[1])


def _within(x: Tensor, move: float, epsilon: float) -> Tensor:
    """x + move, rounded towards x where rounding would leave the ball."""
    wide = in_float64(x)
    end = (wide + move).to(x.dtype)
    beyond = (in_float64(end) - wide).abs() > epsilon
    return torch.where(beyond, torch.nextafter(end, wide.to(x.dtype)), end).to(x.device)
