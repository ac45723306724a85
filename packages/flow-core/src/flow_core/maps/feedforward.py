"""Plain Lipschitz nets: of Residual Flows and Implicit Normalizing Flows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast, final

from flow_solvers import BoundMap, Index
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Context
from flow_core.lipschitz import LipschitzConv2d, LipschitzLayer, LipschitzLinear, make_activation
from flow_core.lipschitz.activations import Activation
from flow_core.maps.bound_activation import BoundActivation, bind_activation
from flow_core.maps.conditioner import Conditioner
from flow_core.maps.linearizations import jacobian_by_products
from flow_core.maps.lipschitz_map import LipschitzMap
from flow_core.maps.operators import (
    affine,
    affine_transpose,
    bias_of,
    channel_dim,
    through,
    through_transpose,
)


@dataclass(frozen=True)
class FeedForwardBound:
    """W_n φ(… φ(W_1 φ₀(w) + b_1) …) + b_n with effective weights; φ₀ is absent without preact."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activations: tuple[BoundActivation, ...]
    preact: BoundActivation | None = None
    features: tuple[Tensor, ...] = ()

    def __call__(self, w: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """G(w)."""
        dim = channel_dim(self.weights[0])
        h = w if self.preact is None else self.preact.value(w, dim)
        for i, activation in enumerate(self.activations):
            h = activation.value(self._layer(i, h), dim)
        return affine(h, self.weights[-1], self.biases[-1])

    def linearize(self, w: Float[Tensor, " batch *shape"]) -> "FeedForwardLinearization":
        """G(w) and products with J."""
        dim = channel_dim(self.weights[0])
        h, slopes = w, list[Tensor]()
        if self.preact is not None:
            h, slope = self.preact.value_and_slope(w, dim)
            slopes.append(slope)
        for i, activation in enumerate(self.activations):
            h, slope = activation.value_and_slope(self._layer(i, h), dim)
            slopes.append(slope)
        value = affine(h, self.weights[-1], self.biases[-1])
        return FeedForwardLinearization(self, w, value, tuple(slopes))

    def select(self, index: Index) -> "FeedForwardBound":
        """The map for a subset of the batch."""
        return replace(self, features=tuple(f[index] for f in self.features))

    def tensors(self) -> tuple[Tensor, ...]:
        """Weights, biases, activation parameters, conditioner features."""
        learned = tuple(t for a in self._all_activations() for t in a.params)
        return (*self.weights, *self.biases, *learned, *self.features)

    def with_tensors(self, tensors: Sequence[Tensor]) -> "FeedForwardBound":
        """The same net with other tensors."""
        queue = iter(tensors)

        def renew(activation: BoundActivation) -> BoundActivation:
            """The activation with the next tensors as its parameters."""
            return activation.with_params([next(queue) for _ in activation.params])

        return replace(
            self,
            weights=tuple(next(queue) for _ in self.weights),
            biases=tuple(next(queue) for _ in self.biases),
            preact=None if self.preact is None else renew(self.preact),
            activations=tuple(renew(a) for a in self.activations),
            features=tuple(next(queue) for _ in self.features),
        )

    def __neg__(self) -> "FeedForwardBound":
        """The map -G: the last layer changes its sign."""
        return replace(
            self,
            weights=(*self.weights[:-1], -self.weights[-1]),
            biases=(*self.biases[:-1], -self.biases[-1]),
        )

    def _all_activations(self) -> tuple[BoundActivation, ...]:
        return self.activations if self.preact is None else (self.preact, *self.activations)

    def _layer(self, i: int, h: Tensor) -> Tensor:
        a = affine(h, self.weights[i], self.biases[i])
        return a + self.features[i] if self.features else a


@dataclass(frozen=True)
class FeedForwardLinearization:
    """A plain net at one point; the activation derivatives are kept."""

    bound: FeedForwardBound
    point: Tensor
    value: Tensor
    slopes: tuple[Tensor, ...]

    def jvp(self, tangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """J t, one layer after the other."""
        weights, slopes = self.bound.weights, list(self.slopes)
        dim, t = channel_dim(weights[0]), tangent
        if self.bound.preact is not None:
            t = through(t, slopes.pop(0), dim)
        for weight, slope in zip(weights[:-1], slopes, strict=True):
            t = through(affine(t, weight), slope, dim)
        return affine(t, weights[-1])

    def vjp(self, cotangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """Jᵀ g, last layer first."""
        weights, slopes = self.bound.weights, list(self.slopes)
        dim, g = channel_dim(weights[0]), affine_transpose(cotangent, weights[-1])
        for weight in reversed(weights[:-1]):
            ga = through_transpose(g, slopes.pop(), weight.shape[0], dim)
            g = affine_transpose(ga, weight)
        if self.bound.preact is not None:
            g = through_transpose(g, slopes.pop(), self.point.shape[dim], dim)
        return g

    def jacobian(self) -> Float[Tensor, "batch dim dim"]:
        """J as a matrix per sample."""
        return jacobian_by_products(self.jvp, self.point)

    def select(self, index: Index) -> "FeedForwardLinearization":
        """The same linearization for a subset of the batch."""
        return replace(
            self,
            bound=self.bound.select(index),
            point=self.point[index],
            value=self.value[index],
            slopes=tuple(s[index] for s in self.slopes),
        )


@final
class FeedForwardNet(LipschitzMap):
    """Lipschitz layers with activations between them.

    Args:
        channels: Features of a vector, or channels of an image.
        hidden: Width of every hidden layer; concatenating activations halve what a layer makes.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        coeff: Bound on the spectral norm of every layer, in (0, 1).
        kernels: Kernel sizes, one more than hidden layers; None for vectors.
        map_size: `(height, width)` of images; None for vectors.
        preact: Put an activation in front of the first layer (Residual Flows, all blocks but the
            first).
        zero_init: Divide the last layer's weight by 1000, so that the map starts near zero.
        context_features: Features of the context that shifts every hidden layer, or None.

    Source: Chen et al. 2019 (Residual Flows), appendix E; Lu et al. 2021 (Implicit Normalizing
    Flows), appendix C.
    """

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int],
        *,
        activation: str = "lipswish",
        coeff: float = 0.98,
        kernels: Sequence[int] | None = None,
        map_size: tuple[int, int] | None = None,
        preact: bool = False,
        zero_init: bool = False,
        context_features: int | None = None,
    ) -> None:
        super().__init__((channels, *(map_size or ())))
        sizes = [channels, *hidden, channels]
        if min(sizes) < 1 or not hidden:
            raise ValueError(f"expected positive sizes and a hidden layer, got {sizes}")
        if (kernels is None) != (map_size is None):
            raise ValueError("expected kernels and map_size together, for images, or neither")
        if kernels is not None and len(kernels) != len(hidden) + 1:
            raise ValueError(f"expected {len(hidden) + 1} kernels, got {len(kernels)}")
        self.activations = nn.ModuleList(make_activation(activation) for _ in hidden)
        self.preact = make_activation(activation) if preact else None
        expansion = cast(Activation, self.activations[0]).expansion
        if any(width % expansion for width in hidden):
            raise ValueError(f"expected widths that {activation} can halve, got {list(hidden)}")
        self.layers = nn.ModuleList()
        for i in range(len(hidden) + 1):
            inputs = sizes[i] * (expansion if preact and i == 0 else 1)
            last = i == len(hidden)
            outputs = channels if last else hidden[i] // expansion
            self.layers.append(
                LipschitzLinear(inputs, outputs, coeff=coeff, zero_init=zero_init and last)
                if kernels is None or map_size is None
                else LipschitzConv2d(
                    inputs, outputs, kernels[i], map_size, coeff=coeff, zero_init=zero_init and last
                )
            )
        widths = [width // expansion for width in hidden]
        self.conditioner = (
            None if context_features is None else Conditioner(context_features, widths, map_size)
        )

    def bind_weights(self) -> FeedForwardBound:
        """Normalise the weights."""
        layers = self._layers()
        return FeedForwardBound(
            weights=tuple(layer.effective()[0] for layer in layers),
            biases=tuple(bias_of(layer) for layer in layers),
            activations=tuple(bind_activation(cast(Activation, a)) for a in self.activations),
            preact=None if self.preact is None else bind_activation(self.preact),
        )

    def attach(self, bound: BoundMap, context: Context) -> BoundMap:
        """Add the conditioner's features, if there is one."""
        if self.conditioner is None:
            return bound
        return replace(cast(FeedForwardBound, bound), features=self.conditioner.features(context))

    def certificate(self) -> float:
        """The product of all layers' certified norms and activations' Lipschitz constants."""
        bound = 1.0 if self.preact is None else self.preact.lipschitz
        for layer in self._layers():
            bound *= layer.certificate()
        for activation in self.activations:
            bound *= cast(Activation, activation).lipschitz
        return bound

    def _layers(self) -> list[LipschitzLayer]:
        return [cast(LipschitzLayer, layer) for layer in self.layers]
