"""Smooth elementwise activations without parameters."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flow_core.lipschitz.activations.base import Activation


class Identity(Activation):
    """x: makes a network linear."""

    @property
    def lipschitz(self) -> float:
        """1."""
        return 1.0

    def value(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "*shape"]:
        """The input itself."""
        return a

    def value_and_slope(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """The input itself and ones."""
        return a, torch.ones_like(a)


class Sin(Activation):
    """sin(2 pi x) / (2 pi) (Lu et al. 2021, Implicit Normalizing Flows, tabular experiments)."""

    @property
    def lipschitz(self) -> float:
        """1."""
        return 1.0

    def value(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "*shape"]:
        """sin(2 pi a) / (2 pi)."""
        return torch.sin(2 * math.pi * a) / (2 * math.pi)

    def value_and_slope(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """sin(2 pi a) / (2 pi) and cos(2 pi a)."""
        angle = 2 * math.pi * a
        return torch.sin(angle) / (2 * math.pi), torch.cos(angle)


class Tanh(Activation):
    """tanh(x)."""

    @property
    def lipschitz(self) -> float:
        """1."""
        return 1.0

    def value(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "*shape"]:
        """tanh(a)."""
        return torch.tanh(a)

    def value_and_slope(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """tanh(a) and 1 - tanh(a)²."""
        value = torch.tanh(a)
        return value, 1 - value * value


class Softplus(Activation):
    """log(1 + exp(x))."""

    @property
    def lipschitz(self) -> float:
        """1."""
        return 1.0

    def value(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "*shape"]:
        """log(1 + exp(a))."""
        return functional.softplus(a)

    def value_and_slope(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """log(1 + exp(a)) and sigmoid(a)."""
        return functional.softplus(a), torch.sigmoid(a)
