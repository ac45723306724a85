"""A contraction with an activation behind it: φ(G(w))."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from flow_solvers import BoundMap, Index, Linearization
from jaxtyping import Float
from torch import Tensor

from flow_core.context import Context
from flow_core.lipschitz import Activation, make_activation
from flow_core.maps.bound_activation import BoundActivation, bind_activation
from flow_core.maps.linearizations import jacobian_by_products
from flow_core.maps.lipschitz_map import LipschitzMap


@final
class Activated(LipschitzMap):
    """φ ∘ G for a map G, as the classifiers of Implicit Normalizing Flows have it.

    Args:
        inner: The map G.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`, or an instance,
            of which a copy is taken; one that keeps the number of channels.

    Raises:
        ValueError: The activation makes several channels of one, or the shape of G is not known.
    """

    def __init__(self, inner: LipschitzMap, activation: str | Activation = "relu") -> None:
        super().__init__(inner.event_shape)
        self.inner = inner
        self.activation = make_activation(activation)
        if self.activation.expansion != 1:
            raise ValueError(f"expected an activation that keeps channels, got {activation}")
        if self.event_shape is None:
            raise ValueError("expected a map that knows the shape of its samples")
        self.uses_context, self.context_shape = inner.uses_context, inner.context_shape

    def bind_weights(self) -> "BoundActivated":
        """Bind the map and hold the parameters of the activation."""
        return BoundActivated(self.inner.bind_weights(), bind_activation(self.activation))

    def attach(self, bound: BoundMap, context: Context) -> BoundMap:
        """Add to the map what depends on the context."""
        assert isinstance(bound, BoundActivated)
        return replace(bound, inner=self.inner.attach(bound.inner, context))

    def compiled(self, bound: BoundMap, batch_sizes: frozenset[int]) -> BoundMap:
        """The map compiled, the activation behind it not."""
        assert isinstance(bound, BoundActivated)
        return replace(bound, inner=self.inner.compiled(bound.inner, batch_sizes))

    def certificate(self) -> float:
        """The constants of both, multiplied."""
        return self.inner.certificate() * self.activation.lipschitz


@dataclass(frozen=True)
class BoundActivated:
    """An `Activated` map with everything that it depends on fixed.

    Attributes:
        inner: The map G.
        activation: What is behind it.
        sign: 1, or -1 of the map -φ(G(w)).
    """

    inner: BoundMap
    activation: BoundActivation
    sign: int = 1

    def __call__(self, w: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """±φ(G(w))."""
        return self._signed(self.activation.value(self.inner(w), _channels(w)))

    def linearize(self, w: Float[Tensor, " batch *shape"]) -> "ActivatedLinearization":
        """The value, and products with the Jacobian."""
        inner = self.inner.linearize(w)
        value, slope = self.activation.value_and_slope(inner.value, _channels(w))
        return ActivatedLinearization(self, inner, self._signed(value), slope)

    def select(self, index: Index) -> "BoundActivated":
        """The map for a subset of the batch."""
        return replace(self, inner=self.inner.select(index))

    def tensors(self) -> tuple[Tensor, ...]:
        """Those of the map, and the parameters of the activation."""
        return (*self.inner.tensors(), *self.activation.params)

    def with_tensors(self, tensors: Sequence[Tensor]) -> "BoundActivated":
        """The same map with other tensors."""
        count = len(tensors) - len(self.activation.params)
        return replace(
            self,
            inner=self.inner.with_tensors(tensors[:count]),
            activation=replace(self.activation, params=tuple(tensors[count:])),
        )

    def __neg__(self) -> "BoundActivated":
        """The map of the opposite sign."""
        return replace(self, sign=-self.sign)

    def _signed(self, values: Tensor) -> Tensor:
        return values if self.sign > 0 else -values


@dataclass(frozen=True)
class ActivatedLinearization:
    """An activated map at one point; the derivative of the activation is kept."""

    bound: BoundActivated
    inner: Linearization
    value: Tensor
    slope: Tensor

    @property
    def point(self) -> Tensor:
        """Where it was linearized."""
        return self.inner.point

    def jvp(self, tangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """J t."""
        pushed = self.bound.activation.push(
            self.inner.jvp(tangent), self.slope, _channels(self.point)
        )
        return pushed if self.bound.sign > 0 else -pushed

    def vjp(self, cotangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """Jᵀ g."""
        dim = _channels(self.point)
        g = cotangent if self.bound.sign > 0 else -cotangent
        return self.inner.vjp(self.bound.activation.pull(g, self.slope, self.point.shape[dim], dim))

    def jacobian(self) -> Float[Tensor, "batch dim dim"]:
        """J as a matrix per sample."""
        return jacobian_by_products(self.jvp, self.point)

    def select(self, index: Index) -> "ActivatedLinearization":
        """The same linearization for a subset of the batch."""
        return ActivatedLinearization(
            self.bound.select(index),
            self.inner.select(index),
            self.value[index],
            self.slope[index],
        )


def _channels(w: Tensor) -> int:
    """The dimension of the channels, counted from the end."""
    return -1 if w.ndim == 2 else -3
