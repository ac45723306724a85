"""Pila: identity for positive inputs, a cubic times an exponential for the others.

p(x) = x for x > 0 and (k²/2·x³ − k·x² + x)·e^{kx} for x ≤ 0, with k = 5 (Ahn et al., "Invertible
Monotone Operators for Normalizing Flows", NeurIPS 2022). p is three times continuously
differentiable; its n-th derivative at x ≤ 0 is again a cubic Pₙ times e^{kx}. At exactly 0 every
derivative is the one from the left.
"""

import torch
from flow_solvers.precision import widen
from jaxtyping import Float
from torch import Tensor

RATE = 5.0

# Below this argument e^{kx} is 0 in float64 too, while the cubics are still finite in float32.
CUTOFF = -160.0

Cubic = tuple[float, float, float, float]


def polynomial(order: int) -> Cubic:
    """Coefficients of Pₙ, constant first, such that p⁽ⁿ⁾(x) = Pₙ(x)·e^{kx} for x ≤ 0.

    (d, c, b, a) ↦ (kd + c, kc + 2b, kb + 3a, ka) is one differentiation.
    """
    d, c, b, a = 0.0, 1.0, -RATE, RATE**2 / 2
    for _ in range(order):
        d, c, b, a = RATE * d + c, RATE * c + 2 * b, RATE * b + 3 * a, RATE * a
    return d, c, b, a


def pila_derivatives(
    x: Float[Tensor, "*shape"], order: int, count: int
) -> tuple[Float[Tensor, "*shape"], ...]:
    """Evaluate p⁽ⁿ⁾ for n = order, …, order + count − 1, with one exponential for all of them.

    Ordinary differentiable operations: autograd of the n-th is the (n+1)-th, at 0 too.
    """
    # where, not clamp or minimum: their derivative at exactly 0 is 0 or 1/2. And before the
    # exponential, so that the branch that is not taken never makes an infinity.
    t = torch.where(x > 0, 0.0, x).clamp(min=CUTOFF)
    decay = torch.exp(RATE * t)
    return tuple(_derivative(x, t, decay, n) for n in range(order, order + count))


def _derivative(x: Tensor, t: Tensor, decay: Tensor, order: int) -> Tensor:
    d, c, b, a = polynomial(order)
    below = (((a * t + b) * t + c) * t + d) * decay
    if order == 0:
        return torch.where(x > 0, x, below)
    return torch.where(x > 0, 1.0 if order == 1 else 0.0, below)


def _single(x: Tensor, order: int) -> Tensor:
    if not x.is_floating_point():
        raise ValueError(f"expected a floating point tensor, got {x.dtype}; convert it first")
    # The cubics overflow in float16 and lose digits in bfloat16.
    (y,) = pila_derivatives(widen(x), order, 1)
    return y.to(x.dtype)


def pila(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Evaluate p(x) elementwise. Its minimum is −0.27422, at x = −0.45391.

    Raises:
        ValueError: `x` is not floating point.
    """
    return _single(x, 0)


def pila_slope(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Evaluate p'(x) elementwise; its range is [−19e⁻⁴, 1], the lowest at x = −0.8.

    Raises:
        ValueError: `x` is not floating point.
    """
    return _single(x, 1)


def pila_curvature(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Evaluate p''(x) elementwise; |p''| ≤ 3.1443, and 0 at 0.

    Raises:
        ValueError: `x` is not floating point.
    """
    return _single(x, 2)
