"""The two protocols that every package speaks: a bound map and its linearization.

A *bound map* is a map G with everything that it depends on already fixed: effective weights,
conditioner features, masks. It is a value, not a module: nothing in it can go stale.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from flow_solvers.samples import SMALL_DIMENSION

Index = Int[Tensor, " selected"]


@runtime_checkable
class Linearization(Protocol):
    """G at one point: its value and cheap exact products with its Jacobian J.

    Products accept any number of leading probe dimensions in front of the shape of the point, so
    that several probes cost one pass. They are ordinary differentiable operations of
    `bound.tensors()` and of `point`.
    """

    @property
    def bound(self) -> "BoundMap":
        """The map that was linearized."""
        ...

    @property
    def point(self) -> Float[Tensor, " batch *shape"]:
        """Where it was linearized."""
        ...

    @property
    def value(self) -> Float[Tensor, " batch *shape"]:
        """G(point)."""
        ...

    def jvp(self, tangent: Float[Tensor, " *probes"]) -> Float[Tensor, " *probes"]:
        """J t for tangents of shape `(*probes, batch, *shape)`."""
        ...

    def vjp(self, cotangent: Float[Tensor, " *probes"]) -> Float[Tensor, " *probes"]:
        """Jᵀ g for cotangents of shape `(*probes, batch, *shape)`."""
        ...

    def jacobian(self) -> Float[Tensor, " batch dim dim"]:
        """J as a matrix per sample; costs `dim` products."""
        ...

    def select(self, index: Index) -> "Linearization":
        """The same linearization for a subset of the batch."""
        ...


@runtime_checkable
class BoundMap(Protocol):
    """A map w -> G(w) of a batch, sample by sample, with its parameters bound."""

    def __call__(self, w: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """G(w)."""
        ...

    def linearize(self, w: Float[Tensor, " batch *shape"]) -> Linearization:
        """G(w) together with products with its Jacobian at w."""
        ...

    def select(self, index: Index) -> "BoundMap":
        """The map for a subset of the batch: re-indexes everything that belongs to a sample."""
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that G depends on; gradients flow to these."""
        ...

    def with_tensors(self, tensors: Sequence[Tensor]) -> "BoundMap":
        """The same map with `tensors()` replaced, in the same order."""
        ...

    def __neg__(self) -> "BoundMap":
        """The map -G."""
        ...


@runtime_checkable
class PureMap(Protocol):
    """A map of small dimension as pure functions, without a graph: what compiled code works with.

    Gradients come by the tensors of the map, in the order of `BoundMap.tensors()`.
    """

    def value_and_jacobian(
        self, w: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim dim"]]:
        """G(w) and J(w)."""
        ...

    def pull_value(
        self, w: Float[Tensor, "batch dim"], along: Float[Tensor, "batch dim"]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradients of ⟨G(w), along⟩ by w and by the tensors."""
        ...

    def pull_jacobian(
        self, w: Float[Tensor, "batch dim"], along: Float[Tensor, "batch dim dim"]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradients of ⟨J(w), along⟩ by w and by the tensors."""
        ...


PureFunction = Callable[..., tuple[Tensor, ...]]
"""A pure function of (pure_map, *arguments)."""


class FusedMap(ABC):
    """A map of small dimension that runs whole stretches of a solve as one, perhaps compiled.

    To be inherited from: checking a protocol costs as much as several operations.
    """

    @property
    def unroll(self) -> int:
        """Evaluations that are worth making before anyone looks at their result."""
        return 1

    @abstractmethod
    def run(
        self, function: PureFunction, w: Float[Tensor, "batch dim"], *arguments: object
    ) -> tuple[Tensor, ...]:
        """`function(pure_map, w, *arguments)`, without a graph."""

    @abstractmethod
    def linearization(
        self,
        point: Float[Tensor, "batch dim"],
        value: Float[Tensor, "batch dim"],
        jacobian: Float[Tensor, "batch dim dim"],
    ) -> Linearization:
        """The linearization that has these numbers."""

    @abstractmethod
    def select(self, index: Index) -> "FusedMap":
        """The map for a subset of the batch."""


def fused(bound: BoundMap, w: Shaped[Tensor, " batch *shape"]) -> FusedMap | None:
    """The map itself where it can be run as a whole at w."""
    small = w.dim() == 2 and 0 < w.shape[1] <= SMALL_DIMENSION
    return bound if small and isinstance(bound, FusedMap) else None
