"""Pila and its concatenated form.

Ahn et al. 2022, "Invertible Monotone Operators for Normalizing Flows".
"""

from collections.abc import Sequence

from flow_kernels import CPILA_LIPSCHITZ, cpila, cpila_with_slope, pila, pila_slope
from jaxtyping import Float
from torch import Tensor

from flow_core.lipschitz.activations.base import Activation


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
        return pila(a)

    def value_and_slope(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """pila(a) and pila'(a)."""
        return pila(a), pila_slope(a)


class CPila(Activation):
    """[pila(x - 0.2), pila(-x - 0.2)] / 1.06: speed in [0.9434, 0.9989]."""

    expansion = 2

    @property
    def lipschitz(self) -> float:
        """The supremum of sqrt(pila'(x - .2)² + pila'(-x - .2)²) / 1.06."""
        return CPILA_LIPSCHITZ

    def value(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "*expanded"]:
        """[pila(a - 0.2), pila(-a - 0.2)] / 1.06."""
        return cpila(a, dim)

    def value_and_slope(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "*expanded"], Float[Tensor, "*expanded"]]:
        """[pila(a - 0.2), pila(-a - 0.2)] / 1.06 and [pila'(a - 0.2), -pila'(-a - 0.2)] / 1.06."""
        return cpila_with_slope(a, dim)
