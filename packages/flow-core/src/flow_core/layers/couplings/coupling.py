"""Couplings: one half of the channels moves the other."""

from abc import abstractmethod
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection, Context
from flow_core.layers.couplings.conditioners import convolutional_conditioner, dense_conditioner
from flow_core.layers.couplings.scales import BoundedExp, ScaleFunction
from flow_core.rounding import without_rounding


class Coupling(Bijection):
    """(x₁, x₂) ↦ (x₁, (x₂ + t)·s) with t and s a function of x₁, the first half of the channels.

    Args:
        conditioner: Maps x₁ to what t and s are made of, over dimension 1.
    """

    def __init__(self, conditioner: nn.Module) -> None:
        super().__init__()
        self.conditioner = conditioner

    @abstractmethod
    def _moves(self, raw: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """t and log s of the shape of `moved`."""

    @without_rounding
    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """(x₁, (x₂ + t)·s)."""
        still, moved, shift, log_scale = self._conditioned(x)
        return torch.cat([still, (moved + shift) * log_scale.exp()], 1)

    @without_rounding
    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """(y₁, y₂/s − t)."""
        still, moved, shift, log_scale = self._conditioned(y)
        return torch.cat([still, moved * (-log_scale).exp() - shift], 1)

    @without_rounding
    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """(x₁, (x₂ + t)·s) and Σ log s."""
        still, moved, shift, log_scale = self._conditioned(x)
        y = torch.cat([still, (moved + shift) * log_scale.exp()], 1)
        return y, log_scale.flatten(1).sum(1)

    @without_rounding
    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """(y₁, y₂/s − t) and −Σ log s."""
        still, moved, shift, log_scale = self._conditioned(y)
        x = torch.cat([still, moved * (-log_scale).exp() - shift], 1)
        return x, -log_scale.flatten(1).sum(1)

    def _conditioned(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x₁, x₂, t and log s."""
        if x.ndim < 2 or x.shape[1] < 2:
            raise ValueError(f"expected at least two channels in dimension 1, got {tuple(x.shape)}")
        half = x.shape[1] // 2
        still, moved = x[:, :half], x[:, half:]
        raw = cast(Tensor, self.conditioner(still))
        shift, log_scale = self._moves(raw, moved)
        if not shift.shape == log_scale.shape == moved.shape:
            raise ValueError(
                f"expected a conditioner for moved values of shape {tuple(moved.shape)}, got "
                f"shifts of shape {tuple(shift.shape)} and scales of shape {tuple(log_scale.shape)}"
            )
        return still, moved, shift, log_scale


@final
class AdditiveCoupling(Coupling):
    """(x₁, x₂) ↦ (x₁, x₂ + t(x₁)); the log-determinant is 0. Source: Dinh et al. 2015, §3.2.

    Args:
        conditioner: Maps x₁ to t.
    """

    def _moves(self, raw: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        return raw, torch.zeros_like(moved)


@final
class AffineCoupling(Coupling):
    """(x₁, x₂) ↦ (x₁, (x₂ + t)·s). Source: Dinh et al. 2017, §3.2; Kingma & Dhariwal 2018, §3.3.

    Args:
        conditioner: Maps x₁ to twice the channels of x₂: t, then what s is made of.
        scale: Makes s of a number; that of Self Normalizing Flows unless given.
    """

    def __init__(self, conditioner: nn.Module, scale: ScaleFunction | None = None) -> None:
        super().__init__(conditioner)
        self.scale = BoundedExp() if scale is None else scale

    @classmethod
    def convolutional(
        cls, channels: int, width: int, scale: ScaleFunction | None = None
    ) -> "AffineCoupling":
        """With Glow's conditioner of that width, on images; by default the identity at first."""
        still, moved = _halves(channels)
        return cls(convolutional_conditioner(still, 2 * moved, width), scale)

    @classmethod
    def dense(
        cls, channels: int, width: int, scale: ScaleFunction | None = None
    ) -> "AffineCoupling":
        """With linear layers of that width, on vectors; by default the identity at first."""
        still, moved = _halves(channels)
        return cls(dense_conditioner(still, 2 * moved, width), scale)

    def extra_repr(self) -> str:
        """Scale function shown in the representation of a model."""
        return f"scale={self.scale}"

    def _moves(self, raw: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw_scale = raw.chunk(2, dim=1)
        return shift, self.scale.log_scale(raw_scale)


def _halves(channels: int) -> tuple[int, int]:
    if channels < 2:
        raise ValueError(f"expected at least two channels, got {channels}")
    return channels // 2, channels - channels // 2
