"""Piecewise activations: rectifiers, exponential units, the clipped cube."""

import torch
from torch.nn import functional

from flow_core.lipschitz.activations.base import (
    Activation,
    Inputs,
    Outputs,
    OutputsAndSlope,
    Params,
)

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772


class ReLU(Activation):
    """max(x, 0); the slope at 0 is 0."""

    slope_restricted = True

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """max(a, 0)."""
        return functional.relu(a)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """max(a, 0) and the indicator of a > 0."""
        return functional.relu(a), (a > 0).to(a.dtype)


class CReLU(Activation):
    """[max(x, 0), max(-x, 0)] (Shang et al. 2016): exactly one half moves, at speed 1."""

    expansion = 2

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """[max(a, 0), max(-a, 0)]."""
        return functional.relu(torch.cat((a, -a), dim))

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """[max(a, 0), max(-a, 0)] and [1 where a > 0, -1 where a < 0]."""
        value = self.value(a, dim)
        slope = value.detach().sign()  # piecewise constant
        slope.narrow(dim, a.shape[dim], a.shape[dim]).neg_()
        return value, slope


class ELU(Activation):
    """x for x > 0, else exp(x) - 1 (Clevert et al. 2016 with alpha = 1)."""

    slope_restricted = True

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """ELU(a)."""
        return functional.elu(a)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """ELU(a) and exp(min(a, 0))."""
        return functional.elu(a), torch.exp(torch.where(a > 0, 0.0, a))


class SELU(Activation):
    """Scaled ELU (Klambauer et al. 2017); not 1-Lipschitz, its constant is counted in bounds."""

    lipschitz = SELU_SCALE * SELU_ALPHA  # 1.7581, the slope at 0 from below

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """SELU(a)."""
        return functional.selu(a)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """SELU(a) and its derivative: lambda for a > 0, else lambda alpha exp(a)."""
        below = SELU_SCALE * SELU_ALPHA * torch.exp(torch.where(a > 0, 0.0, a))
        return functional.selu(a), torch.where(a > 0, SELU_SCALE, below)


class LipschitzCube(Activation):
    """x³ / 3 on [-1, 1], continued with slope 1 (from the code of Residual Flows)."""

    slope_restricted = True

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """The continued cube and min(a², 1)."""
        inner = a.clamp(-1.0, 1.0)
        slope = inner * inner
        return inner * slope / 3 + (a - inner), slope
