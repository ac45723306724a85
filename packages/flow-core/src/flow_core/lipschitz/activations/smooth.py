"""Smooth elementwise activations without parameters."""

import math

import torch
from torch.nn import functional

from flow_core.lipschitz.activations.base import (
    Activation,
    Inputs,
    Outputs,
    OutputsAndSlope,
    Params,
)


class Identity(Activation):
    """x: makes a network linear."""

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """The input itself."""
        return a

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """The input itself and ones."""
        return a, torch.ones_like(a)


class Sin(Activation):
    """sin(2 pi x) / (2 pi) (Lu et al. 2021, Implicit Normalizing Flows, tabular experiments)."""

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """sin(2 pi a) / (2 pi)."""
        return torch.sin(2 * math.pi * a) / (2 * math.pi)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """sin(2 pi a) / (2 pi) and cos(2 pi a)."""
        angle = 2 * math.pi * a
        return torch.sin(angle) / (2 * math.pi), torch.cos(angle)


class Tanh(Activation):
    """tanh(x)."""

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """tanh(a)."""
        return torch.tanh(a)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """tanh(a) and 1 - tanh(a)²."""
        value = torch.tanh(a)
        return value, 1 - value * value


class Softplus(Activation):
    """log(1 + exp(x))."""

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """log(1 + exp(a))."""
        return functional.softplus(a)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """log(1 + exp(a)) and sigmoid(a)."""
        return functional.softplus(a), torch.sigmoid(a)
