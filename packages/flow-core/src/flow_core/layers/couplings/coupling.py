"""Couplings: one half of the channels moves the other."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, cast, final

import torch
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.events import per_sample_sum
from flow_core.layers.couplings.conditioners import convolutional_conditioner, dense_conditioner
from flow_core.layers.couplings.scales import BoundedExpScale, ScaleFunction
from flow_core.passes import Pass


class Coupling(Bijection):
    """(x₁, x₂) ↦ (x₁, (x₂ + t)·s) with t and s a function of x₁, the first half of the channels.

    log|det ∂y/∂x| = Σ log s.

    Args:
        conditioner: Maps x₁ to what t and s are made of, over dimension 1.
        event_shape: Shape of a sample, channels first, as far as the conditioner is made for one.

    Attributes:
        numbers: How many numbers of the conditioner move a value.
    """

    numbers: ClassVar[int]

    def __init__(
        self, conditioner: nn.Module, event_shape: Sequence[int | None] | None = None
    ) -> None:
        super().__init__(event_shape)
        self.conditioner = conditioner

    @abstractmethod
    def _moves(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """t and log s of what the conditioner gives."""

    @final
    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Refuse what has no two channels."""
        if x.ndim < 2 or x.shape[1] < 2:
            raise ValueError(
                f"{type(self).__name__}: expected a batch of samples with at least two channels "
                f"in dimension 1, got {tuple(x.shape)}"
            )

    @final
    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        still, moved, shift, log_scale = self._conditioned(x)
        y = torch.cat([still, (moved + shift) * log_scale.exp()], 1)
        return y, how.log_det(x, lambda: per_sample_sum(log_scale))

    @final
    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        still, moved, shift, log_scale = self._conditioned(y)
        x = torch.cat([still, moved * (-log_scale).exp() - shift], 1)
        return x, how.log_det(y, lambda: -per_sample_sum(log_scale))

    def _conditioned(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x₁, x₂, t and log s."""
        half = x.shape[1] // 2
        still, moved = x[:, :half], x[:, half:]
        raw = cast(Tensor, self.conditioner(still))
        expected = (len(x), self.numbers * moved.shape[1], *moved.shape[2:])
        if raw.shape != expected:
            raise ValueError(
                f"{type(self).__name__}: expected a conditioner that gives {expected} for moved "
                f"values of shape {tuple(moved.shape)}, got {tuple(raw.shape)}"
            )
        return still, moved, *self._moves(raw)


@final
class AdditiveCoupling(Coupling):
    """(x₁, x₂) ↦ (x₁, x₂ + t(x₁)); the log-determinant is 0. Source: Dinh et al. 2015, §3.2.

    Args:
        conditioner: Maps x₁ to t.
        event_shape: Shape of a sample, channels first, as far as the conditioner is made for one.
    """

    numbers = 1

    def _moves(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return raw, torch.zeros_like(raw)


@final
class AffineCoupling(Coupling):
    """(x₁, x₂) ↦ (x₁, (x₂ + t)·s). Source: Dinh et al. 2017, §3.2; Kingma & Dhariwal 2018, §3.3.

    Args:
        conditioner: Maps x₁ to twice the channels of x₂: t, then what s is made of.
        scale: Makes s of a number; that of Self Normalizing Flows unless given.
        event_shape: Shape of a sample, channels first, as far as the conditioner is made for one.
    """

    numbers = 2

    def __init__(
        self,
        conditioner: nn.Module,
        scale: ScaleFunction | None = None,
        *,
        event_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(conditioner, event_shape)
        self.scale = BoundedExpScale() if scale is None else scale

    @classmethod
    def convolutional(
        cls, channels: int, width: int, scale: ScaleFunction | None = None
    ) -> "AffineCoupling":
        """With Glow's conditioner of that width, on images; by default the identity at first."""
        still, moved = _halves(channels)
        conditioner = convolutional_conditioner(still, 2 * moved, width)
        return cls(conditioner, scale, event_shape=(channels, None, None))

    @classmethod
    def dense(
        cls, channels: int, width: int, scale: ScaleFunction | None = None
    ) -> "AffineCoupling":
        """With linear layers of that width, on vectors; by default the identity at first."""
        still, moved = _halves(channels)
        conditioner = dense_conditioner(still, 2 * moved, width)
        return cls(conditioner, scale, event_shape=(channels,))

    def extra_repr(self) -> str:
        """Scale function shown in the representation of a model."""
        return f"scale={self.scale}"

    def _moves(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw_scale = raw.chunk(2, dim=1)
        return shift, self.scale.log_scale(raw_scale)


def _halves(channels: int) -> tuple[int, int]:
    if channels < 2:
        raise ValueError(f"expected at least two channels, got {channels}")
    return channels // 2, channels - channels // 2
