"""What a net is made of once its weights are bound, as a value.

h₀ = E φ₀(w) + e, hᵢ₊₁ = join(hᵢ, φᵢ(Wᵢ hᵢ + bᵢ + cᵢ)), G(w) = W h + b + c; φ₀ is absent but for
nets with an activation in front, E and e but for nets with an entrance. Where layers read a
weighted concatenation, its weights are folded into the columns of the Wᵢ beforehand: one evaluation
then scales nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from flow_solvers import Index, Linearization
from jaxtyping import Float
from torch import Tensor

from flow_core.maps.bound_activation import BoundActivation
from flow_core.maps.joins import Join
from flow_core.maps.operators import affine

LayersT = TypeVar("LayersT", bound="NetLayers")
"""A kind of net."""


@dataclass(frozen=True)
class NetLayers(ABC):
    """The layers of a net with everything that they depend on fixed.

    Attributes:
        weights: Effective weights of all layers.
        biases: Their biases.
        activations: After every layer but the last.
        join: How layers join.
        preact: In front of everything.
        entrance: Weight and bias of a linear map in front of the first layer.
        features: What the context adds to the layers before their activations, the first in front;
            layers behind the last of them get nothing.
        batch_sizes: For which evaluations are compiled.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activations: tuple[BoundActivation, ...]
    join: Join
    preact: BoundActivation | None = None
    entrance: tuple[Tensor, Tensor] | None = None
    features: tuple[Tensor, ...] = ()
    batch_sizes: frozenset[int] = frozenset()

    @abstractmethod
    def __call__(self, w: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """G(w)."""

    @abstractmethod
    def linearize(self, w: Float[Tensor, " batch *shape"]) -> Linearization:
        """G(w) and products with J."""

    def all_activations(self) -> tuple[BoundActivation, ...]:
        """The one in front too."""
        return self.activations if self.preact is None else (self.preact, *self.activations)

    def entered(self, h: Tensor) -> Tensor:
        """What the first layer reads."""
        return h if self.entrance is None else affine(h, *self.entrance)

    def layer(self, i: int, h: Tensor) -> Tensor:
        """What layer i makes of h."""
        a = affine(h, self.weights[i], self.biases[i])
        return a + self.features[i] if i < len(self.features) else a

    def select(self: LayersT, index: Index) -> LayersT:
        """The map for a subset of the batch."""
        return replace(self, features=tuple(f[index] for f in self.features))

    def tensors(self) -> tuple[Tensor, ...]:
        """Weights, biases, activation parameters, entrance, conditioner features."""
        learned = [t for a in self.all_activations() for t in a.params]
        return (*self.weights, *self.biases, *learned, *(self.entrance or ()), *self.features)

    def with_tensors(self: LayersT, tensors: Sequence[Tensor]) -> LayersT:
        """The same net with other tensors."""
        queue = list(tensors)
        return replace(
            self,
            weights=tuple(queue.pop(0) for _ in self.weights),
            biases=tuple(queue.pop(0) for _ in self.biases),
            preact=None if self.preact is None else _renewed(self.preact, queue),
            activations=tuple(_renewed(a, queue) for a in self.activations),
            entrance=None if self.entrance is None else (queue.pop(0), queue.pop(0)),
            features=tuple(queue.pop(0) for _ in self.features),
        )

    def __neg__(self: LayersT) -> LayersT:
        """The map -G: the last layer changes its sign."""
        last = len(self.activations)
        return replace(
            self,
            weights=(*self.weights[:-1], -self.weights[-1]),
            biases=(*self.biases[:-1], -self.biases[-1]),
            features=(*self.features[:last], *(-f for f in self.features[last:])),
        )


def _renewed(activation: BoundActivation, queue: list[Tensor]) -> BoundActivation:
    """The activation with the next tensors as its parameters."""
    return BoundActivation(activation.activation, tuple(queue.pop(0) for _ in activation.params))
