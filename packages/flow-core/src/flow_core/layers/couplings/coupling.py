"""Couplings: one half of the channels moves the other."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, cast, final

import torch
from torch import Tensor, nn

from flow_core.bijection import Bijection, fits
from flow_core.bounds import Bounds
from flow_core.context import Context
from flow_core.domain import Domain, LocalBounds
from flow_core.events import per_sample_sum
from flow_core.layers.couplings.conditioners import convolutional_conditioner, dense_conditioner
from flow_core.layers.couplings.norms import fit_norms
from flow_core.layers.couplings.scales import ScaleFunction, moves_on, scale_function
from flow_core.layers.shear import Moves, joined, unknown_moves
from flow_core.lipschitz.plain import halves, net_bounds
from flow_core.passes import Direction, Pass


class Coupling(Bijection):
    """(x₁, x₂) ↦ (x₁, (x₂ + t)·s) with t and s a function of x₁, the first half of the channels.

    log|det ∂y/∂x| = Σ log s. With a context h the conditioner sees [x₁, h], joined over dimension
    1: h has the features that it asks for, and on images the height and width of x.

    Args:
        conditioner: Maps x₁, or [x₁, h], to what t and s are made of, over dimension 1.
        event_shape: Shape of a sample, channels first, as far as the conditioner is made for one.
        context_features: Features, on images channels, of a context; None for no context.

    Attributes:
        numbers: How many numbers of the conditioner move a value.
    """

    numbers: ClassVar[int]

    def __init__(
        self,
        conditioner: nn.Module,
        event_shape: Sequence[int | None] | None = None,
        *,
        context_features: int | None = None,
    ) -> None:
        super().__init__(event_shape)
        if context_features is not None and context_features < 1:
            raise ValueError(f"expected context_features of at least 1, got {context_features}")
        self.conditioner = conditioner
        self.context_features = context_features
        self.uses_context = context_features is not None
        if context_features is not None and self.event_shape is not None:
            self.context_shape = context_features, *self.event_shape[1:]

    @abstractmethod
    def _moves(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """t and log s of what the conditioner gives."""

    def _moves_on(self, seen: Domain, moved: Domain) -> Moves:
        """What is known of t and log s, from the domain of what the conditioner is called with.

        Nothing, unless a class says so.
        """
        return unknown_moves(moved)

    @final
    def bounds(self) -> Bounds:
        """Those on all samples: finite for additive couplings whose shape is known."""
        shape = self.event_shape
        if shape is None or None in shape:
            return Bounds()
        return self.bounds_on(Domain(tuple(size or 0 for size in shape))).bounds

    @final
    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """See `Moves`; finite where the conditioner has a bound and the scales stay above 0.

        With a context its domain counts. Infinite in truth where s is unbounded on an unbounded
        domain; additive couplings have the bound everywhere. Source: Behrmann et al. 2021, table 1.
        """
        channels, *rest = domain.shape
        still = domain.part((channels // 2, *rest))
        moved = domain.part((channels - channels // 2, *rest))
        seen = self._seen_on(still)
        if seen is None:
            return LocalBounds(Bounds(), domain.image())
        moves = self._moves_on(seen, moved)
        image = joined(still, moves.image(moved, direction), domain)
        return LocalBounds(moves.bounds(moved, direction), image)

    def _seen_on(self, still: Domain) -> Domain | None:
        """What the conditioner is called with; None where the domain of the context is unknown."""
        if self.context_features is None:
            return still
        given = still.context
        if given is None:
            return None
        return still.image(
            min(still.lower, given.lower),
            max(still.upper, given.upper),
            math.hypot(still.norm, given.norm),
            (still.shape[0] + self.context_features, *still.shape[1:]),
        )

    @final
    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Refuse what has no two channels; set ActNorms of the conditioner in their pass."""
        if x.ndim < 2 or x.shape[1] < 2:
            raise ValueError(
                f"{type(self).__name__}: expected a batch of samples with at least two channels "
                f"in dimension 1, got {tuple(x.shape)}"
            )
        if how.initializes and how.direction == "transform":
            fit_norms(self.conditioner, self._seen(x[:, : x.shape[1] // 2], how.context))

    @final
    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        still, moved, shift, log_scale = self._conditioned(x, how.context)
        y = torch.cat([still, (moved + shift) * log_scale.exp()], 1)
        return y, how.log_det(x, lambda: per_sample_sum(log_scale))

    @final
    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        still, moved, shift, log_scale = self._conditioned(y, how.context)
        x = torch.cat([still, moved / log_scale.exp() - shift], 1)
        return x, how.log_det(y, lambda: -per_sample_sum(log_scale))

    def _conditioned(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x₁, x₂, t and log s."""
        channels = x.shape[1]
        # One node of autograd in place of two whose gradients are filled up and added.
        still, moved = x.split_with_sizes([channels // 2, channels - channels // 2], 1)
        raw = cast(Tensor, self.conditioner(self._seen(still, context)))
        expected = (len(x), self.numbers * moved.shape[1], *moved.shape[2:])
        if raw.shape != expected:
            raise ValueError(
                f"{type(self).__name__}: expected a conditioner that gives {expected} for moved "
                f"values of shape {tuple(moved.shape)}, got {tuple(raw.shape)}"
            )
        return still, moved, *self._moves(raw)

    def _seen(self, still: Tensor, context: Context) -> Tensor:
        """What the conditioner is called with."""
        if self.context_features is None:
            return still
        # Asked for at the outermost call, unless a composition there says that it uses none.
        if context is None:
            raise ValueError(f"{type(self).__name__}: expected a context, got None")
        expected = (self.context_features, *still.shape[2:])
        if not fits(context, expected):
            raise self.refusal("a context", expected, context)
        return torch.cat([still, context], 1)


@final
class AdditiveCoupling(Coupling):
    """(x₁, x₂) ↦ (x₁, x₂ + t(x₁)); the log-determinant is 0. Source: Dinh et al. 2015, §3.2.

    Args:
        conditioner: Maps x₁, or [x₁, h], to t.
        event_shape: Shape of a sample, channels first, as far as the conditioner is made for one.
        context_features: Features, on images channels, of a context h; None for no context.
    """

    numbers = 1

    def _moves_on(self, seen: Domain, moved: Domain) -> Moves:
        lipschitz, image = net_bounds(self.conditioner, seen)
        shift = moved.image(image.lower, image.upper, image.norm)
        return Moves(lipschitz, lipschitz, 0.0, shift, 1.0, 1.0, 0.0)

    def _moves(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return raw, torch.zeros_like(raw)


@final
class AffineCoupling(Coupling):
    """(x₁, x₂) ↦ (x₁, (x₂ + t)·s). Source: Dinh et al. 2017, §3.2; Kingma & Dhariwal 2018, §3.3.

    Args:
        conditioner: Maps x₁, or [x₁, h], to twice the channels of x₂: t, then what s is made of.
        scale: Makes s of a number; that of Self Normalizing Flows unless given.
        event_shape: Shape of a sample, channels first, as far as the conditioner is made for one.
        context_features: Features, on images channels, of a context h; None for no context.
    """

    numbers = 2

    def __init__(
        self,
        conditioner: nn.Module,
        scale: ScaleFunction | None = None,
        *,
        event_shape: Sequence[int | None] | None = None,
        context_features: int | None = None,
    ) -> None:
        super().__init__(conditioner, event_shape, context_features=context_features)
        self.scale = scale_function(scale)

    @classmethod
    def convolutional(
        cls,
        channels: int,
        width: int,
        scale: ScaleFunction | None = None,
        *,
        context_features: int | None = None,
    ) -> "AffineCoupling":
        """With Glow's conditioner of that width, on images; by default the identity at first."""
        still, moved = _halves(channels)
        conditioner = convolutional_conditioner(still + (context_features or 0), 2 * moved, width)
        shape = (channels, None, None)
        return cls(conditioner, scale, event_shape=shape, context_features=context_features)

    @classmethod
    def dense(
        cls,
        channels: int,
        width: int,
        scale: ScaleFunction | None = None,
        *,
        context_features: int | None = None,
    ) -> "AffineCoupling":
        """With linear layers of that width, on vectors; by default the identity at first."""
        still, moved = _halves(channels)
        conditioner = dense_conditioner(still + (context_features or 0), 2 * moved, width)
        return cls(conditioner, scale, event_shape=(channels,), context_features=context_features)

    def extra_repr(self) -> str:
        """Scale function shown in the representation of a model."""
        return f"scale={self.scale}"

    def _moves_on(self, seen: Domain, moved: Domain) -> Moves:
        return moves_on(halves(self.conditioner, seen), moved, self.scale)

    def _moves(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw_scale = raw.chunk(2, dim=1)
        return shift, self.scale.log_scale(raw_scale)


def _halves(channels: int) -> tuple[int, int]:
    if channels < 2:
        raise ValueError(f"expected at least two channels, got {channels}")
    return channels // 2, channels - channels // 2
