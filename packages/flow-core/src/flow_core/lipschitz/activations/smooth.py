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

    slope_restricted = True

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

    slope_restricted = True

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """tanh(a)."""
        return torch.tanh(a)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """tanh(a) and 1 - tanh(a)²."""
        value = torch.tanh(a)
        return value, 1 - value * value


class Softplus(Activation):
    """log(1 + exp(x))."""

    slope_restricted = True

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """log(1 + exp(a))."""
        return functional.softplus(a)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """log(1 + exp(a)) and sigmoid(a)."""
        return functional.softplus(a), torch.sigmoid(a)


class Logistic(Activation):
    """4 / (1 + exp(-x)) - 2: a step of height 4 and slope 1, odd."""

    slope_restricted = True

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """2 tanh(a / 2)."""
        return 2 * torch.tanh(a / 2)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """2 tanh(a / 2) and 1 - tanh(a / 2)²."""
        half = torch.tanh(a / 2)
        return 2 * half, 1 - half * half


class Staircase(Activation):
    """x / 2 + sin(2 x) / 4: a smooth staircase of slope cos² x, which never saturates."""

    slope_restricted = True

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """a / 2 + sin(2 a) / 4."""
        return 0.5 * a + 0.25 * torch.sin(2 * a)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """a / 2 + sin(2 a) / 4 and (1 + cos(2 a)) / 2."""
        angle = 2 * a
        return 0.5 * a + 0.25 * torch.sin(angle), 0.5 + 0.5 * torch.cos(angle)
