"""Pila and its concatenated form.

Ahn et al. 2022, "Invertible Monotone Operators for Normalizing Flows".
"""

from flow_kernels import CPILA_LIPSCHITZ, cpila, cpila_with_slope, pila, pila_slope

from flow_core.lipschitz.activations.base import (
    Activation,
    Inputs,
    Outputs,
    OutputsAndSlope,
    Params,
)


class Pila(Activation):
    """Pila: three times continuously differentiable, slope in [-0.348, 1]."""

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """pila(a)."""
        return pila(a)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """pila(a) and pila'(a)."""
        return pila(a), pila_slope(a)


class CPila(Activation):
    """[pila(x - 0.2), pila(-x - 0.2)] / 1.06: speed in [0.9434, 0.9989]."""

    expansion = 2
    lipschitz = CPILA_LIPSCHITZ  # sup of sqrt(pila'(x - .2)² + pila'(-x - .2)²) / 1.06

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """[pila(a - 0.2), pila(-a - 0.2)] / 1.06."""
        return cpila(a, dim)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """The value, and [pila'(a - 0.2), -pila'(-a - 0.2)] / 1.06."""
        return cpila_with_slope(a, dim)
