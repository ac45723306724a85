"""Distributions of torch as the base of a flow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast, final
from weakref import ReferenceType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import Transform

from flow_core.base import BaseDistribution
from flow_core.bijection import Bijection

_Kind = TypeVar("_Kind")

Base: TypeAlias = BaseDistribution | Distribution | nn.Module
"""What a flow takes as its base; `as_base` makes a `BaseDistribution` of it."""


def as_base(base: Base) -> BaseDistribution:
    """The distribution itself, or a `TorchBase` of it.

    Raises:
        TypeError: If it is no distribution and no module that makes one.
        ValueError: If it is none of one z, see `TorchBase`.
    """
    if isinstance(base, Bijection):  # arguments that were exchanged
        raise TypeError(
            "expected base to be a base such as StandardNormal(shape), a distribution of torch "
            f"or a module that makes one, got {type(base).__name__}"
        )
    return base if isinstance(base, BaseDistribution) else TorchBase(base)


@final
class TorchBase(BaseDistribution):
    """A distribution of torch, or of what follows its interface, as the distribution of z.

    The tensors of a distribution become buffers, so that they follow `.to` and are saved with the
    state. A module that is called without arguments and makes a distribution is a base that learns:
    it is called at every use, and its parameters are those of the flow. Without memory, under
    `torch.device("meta")`, torch cannot check arguments of distributions: validate_args=False.

    Args:
        made: A distribution of one z, or a module that makes one.

    Raises:
        TypeError: If it is neither.
        ValueError: If the distribution is discrete, one of a batch, or has tensors that learn and
            no module to hold them.
    """

    _like: Tensor

    def __init__(self, made: Distribution | nn.Module) -> None:
        # Not every caller checks types.
        if not isinstance(made, Distribution | nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                "expected a BaseDistribution, a distribution of torch or a module that makes one, "
                f"got {type(made).__name__}"
            )
        maker = HeldDistribution(made) if isinstance(made, Distribution) else made
        distribution = _of_one_z(maker)
        super().__init__(distribution.event_shape)
        self.maker = maker
        # For distributions without tensors.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of samples."""
        leaves = _leaves(self._distribution(), Tensor)
        return next((t for t in leaves if t.is_floating_point()), self._like).dtype

    @property
    def has_rsample(self) -> bool:
        """Whether samples have gradients to what the distribution is made of."""
        return bool(self._distribution().has_rsample)

    def log_prob(self, z: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch"]:
        """The log-density that the distribution gives."""
        if not z.numel():  # torch's Independent has none
            return z.flatten(1).sum(1)
        return self._distribution().log_prob(z)

    def rsample(self, count: int) -> Float[Tensor, " batch *event"]:
        """Draw `count` values of z.

        Raises:
            NotImplementedError: If the distribution learns, a graph is wanted and its samples have
                none.
        """
        distribution = self._distribution()
        if distribution.has_rsample:
            return distribution.rsample((count,))
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            raise NotImplementedError(
                f"expected a base whose samples have gradients, got {type(distribution).__name__}, "
                "which learns by log_prob alone; call sample, or freeze its parameters"
            )
        return distribution.sample((count,))

    def _distribution(self) -> Distribution:
        return cast(Distribution, self.maker())


@final
class HeldDistribution(nn.Module):
    """A distribution whose tensors are buffers; a call puts them in place."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        learns = any(t.requires_grad for t in _leaves(distribution, Tensor))
        if learns or any(True for _ in _leaves(distribution, nn.Module)):
            raise ValueError(
                f"expected a {type(distribution).__name__} of constant tensors, got one that "
                "learns, whose parameters the flow would not have; give a module that has them "
                "and whose forward() makes the distribution"
            )
        self._template = _mapped(distribution, self._slot, {})

    def forward(self) -> Distribution:
        """The distribution of the present values of the buffers."""
        return cast(Distribution, _mapped(self._template, self._filled, {}))

    def extra_repr(self) -> str:
        """Kind shown in the representation of a model."""
        return type(self._template).__name__

    def _slot(self, leaf: object) -> object:
        """What stands for a tensor, of which this makes a buffer."""
        if not isinstance(leaf, Tensor):
            return leaf
        slot = _Slot(f"tensor{len(self._buffers)}")
        # Nothing could be loaded into an expanded tensor.
        self.register_buffer(slot.name, leaf.detach().clone())
        return slot

    def _filled(self, leaf: object) -> object:
        return getattr(self, leaf.name) if isinstance(leaf, _Slot) else leaf


@dataclass(frozen=True)
class _Slot:
    """The place of a buffer in a distribution."""

    name: str


def _of_one_z(maker: nn.Module) -> Distribution:
    """What a module makes, if it is a distribution that a flow can have as its base."""
    name = type(maker).__name__
    try:
        made: object = maker()
    except (TypeError, NotImplementedError) as error:
        raise TypeError(
            f"expected a module that is called without arguments and makes a distribution, got "
            f"{name}: {error}"
        ) from error
    if not isinstance(made, Distribution):
        raise TypeError(f"expected {name} to make a distribution, got a {type(made).__name__}")
    kind, batch, event = type(made).__name__, tuple(made.batch_shape), tuple(made.event_shape)
    if batch:
        raise ValueError(
            f"expected a distribution of one z, got {kind} with batch shape {batch} and event "
            f"shape {event}; Independent(..., {len(batch)}) makes one z of its batch"
        )
    if _is_discrete(made):
        raise ValueError(
            f"expected a distribution with a density, got {kind}, which is discrete; for integers, "
            "give a flow of real numbers to Dequantized"
        )
    return made


def _is_discrete(distribution: Distribution) -> bool:
    try:
        support = distribution.support
        return support is not None and bool(support.is_discrete)
    except NotImplementedError:  # not every distribution says
        return False


def _leaves(structure: object, kind: type[_Kind]) -> Iterator[_Kind]:
    """What of a kind is inside a distribution."""
    found: list[object] = []
    _mapped(structure, found.append, {})
    return (leaf for leaf in found if isinstance(leaf, kind))


def _mapped(part: object, change: Callable[[object], object], done: dict[int, object]) -> object:
    """A copy of a distribution with its leaves changed, down to those that it is made of.

    Args:
        part: A distribution, a transform, a container of them, or a leaf.
        change: What becomes of a leaf.
        done: What has been made already, by the identity of its part: transforms know their
            inverses, which know them.
    """
    if id(part) in done:
        return done[id(part)]
    if isinstance(part, Distribution | Transform):
        copy = done[id(part)] = object.__new__(type(part))
        vars(copy).update({k: _mapped(v, change, done) for k, v in vars(part).items()})
    elif type(part) in (list, tuple):
        values = cast("list[object] | tuple[object, ...]", part)
        done[id(part)] = type(values)(_mapped(value, change, done) for value in values)
    elif isinstance(part, ReferenceType):
        return None  # to an inverse of the original, which is made again where it is needed
    else:
        done[id(part)] = change(part)
    return done[id(part)]
