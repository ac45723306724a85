"""Newton's method with a known number of steps, for smooth maps of single values."""

import math
import sys
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def newton_steps(distance: float, bend: float) -> int:
    """Steps after which Newton's method has converged to rounding error in float64.

    For increasing f that is convex or concave between the start and the root, from the side on
    which tangents do not overshoot; `distance` bounds how far the start is from the root, `bend`
    bounds |(log f')'|. With e the distance of an iterate x, f'(s) ≥ f'(x)·exp(−bend·|x − s|) on the
    way to the root, so |f(x) − y| ≥ f'(x)·(1 − exp(−bend·e))/bend, and a step leaves at most
    e − (1 − exp(−bend·e))/bend: it gains 1/bend far away and squares the distance nearby. Both
    numbers are in units of the length over which f bends.
    """
    steps = 0
    while distance > sys.float_info.epsilon:
        distance += math.expm1(-bend * distance) / bend
        steps += 1
    return steps


def newton_root(
    value: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    y: Float[Tensor, " batch *shape"],
    start: Float[Tensor, " batch *shape"],
    steps: int,
) -> Float[Tensor, " batch *shape"]:
    """The x with value(x) = y, with right derivatives up to the third.

    The steps that find x leave no graph. Autograd sees two more: seen from y + δ the x that was
    found has an error of O(δ), which a step of Newton's method squares, so they leave O(δ⁴). The
    number of steps is fixed, because a test of convergence would stop the device.
    """

    def step(x: Tensor) -> Tensor:
        return x - (value(x) - y) / slope(x)

    x = start.detach()
    with torch.no_grad():
        for _ in range(steps):
            x = step(x)
    return step(step(x))
