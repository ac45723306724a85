"""The two protocols that every package speaks: a bound map and its linearization.

A *bound map* is a map G with everything that it depends on already fixed: effective weights,
conditioner features, masks. It is a value, not a module: nothing in it can go stale.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

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
