"""Pila and its concatenated form.

Ahn et al. 2022, "Invertible Monotone Operators for Normalizing Flows".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flow_core.lipschitz.activations.base import Activation

CPILA_SPEED_BOUND = 1.0588211  # sup of sqrt(p'(x - .2)² + p'(-x - .2)²) = 1.05882105, at |x| = .6
CPILA_SCALE = 1.06
OFFSET = 0.2
RATE = 5.0


def pila_and_slope(
    x: Float[Tensor, "*shape"],
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Pila: x for x > 0, else (k²/2 x³ - k x² + x) exp(k x) with k = 5; and its derivative.

    The argument is cut before the exponential: neither half overflows, and the gradient of the
    unused half is 0, not 0 * inf.
    """
    t = torch.where(x > 0, 0.0, x.clamp(min=-32.0))
    decay = torch.exp(RATE * t)
    value = torch.where(x > 0, x, ((12.5 * t - 5) * t + 1) * t * decay)
    slope = torch.where(x > 0, 1.0, (((62.5 * t + 12.5) * t - 5) * t + 1) * decay)
    return value, slope


class Pila(Activation):
    """Pila: three times continuously differentiable, slope in [-0.348, 1]."""

    @property
    def lipschitz(self) -> float:
        """1."""
        return 1.0

    def value(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "*shape"]:
        """pila(a)."""
        return pila_and_slope(a)[0]

    def value_and_slope(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """pila(a) and pila'(a)."""
        return pila_and_slope(a)


class CPila(Activation):
    """[pila(x - 0.2), pila(-x - 0.2)] / 1.06: speed in [0.9434, 0.9989]."""

    expansion = 2

    @property
    def lipschitz(self) -> float:
        """The supremum of sqrt(pila'(x - .2)² + pila'(-x - .2)²) / 1.06."""
        return CPILA_SPEED_BOUND / CPILA_SCALE

    def value(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "*expanded"]:
        """[pila(a - 0.2), pila(-a - 0.2)] / 1.06."""
        return self.value_and_slope(a, dim, params)[0]

    def value_and_slope(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "*expanded"], Float[Tensor, "*expanded"]]:
        """[pila(a - 0.2), pila(-a - 0.2)] / 1.06 and [pila'(a - 0.2), -pila'(-a - 0.2)] / 1.06."""
        first, first_slope = pila_and_slope(a - OFFSET)
        second, second_slope = pila_and_slope(-a - OFFSET)
        value = torch.cat((first, second), dim) / CPILA_SCALE
        return value, torch.cat((first_slope, -second_slope), dim) / CPILA_SCALE
