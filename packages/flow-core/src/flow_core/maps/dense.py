"""i-DenseNet maps: dense layers with a learnable weighted concatenation."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import cast, final

import torch
from flow_solvers import SMALL_DIMENSION, BoundMap, FusedMap, Index, PureFunction
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Context
from flow_core.lipschitz import LipschitzConv2d, LipschitzLayer, LipschitzLinear, make_activation
from flow_core.lipschitz.activations import Activation
from flow_core.maps.bound_activation import BoundActivation, bind_activation
from flow_core.maps.conditioner import Conditioner
from flow_core.maps.dense_functions import (
    concatenation,
    dense_jvp,
    dense_value_and_jacobian,
    dense_value_and_slopes,
    dense_vjp,
    effective,
)
from flow_core.maps.evaluation import evaluate_whole
from flow_core.maps.linearizations import FirstOrder, JacobianLinearization, jacobian_by_products
from flow_core.maps.lipschitz_map import LipschitzMap
from flow_core.maps.operators import affine, bias_of, through
from flow_core.maps.pure import EAGER, DenseParts, Runner


@dataclass(frozen=True)
class DenseBound(FusedMap):
    """A dense net with its effective weights: the concatenation is folded into them."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    activations: tuple[BoundActivation, ...]
    runner: Runner = EAGER

    def __call__(self, w: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """G(w)."""
        return self.runner.value(w, self._parts())

    def linearize(
        self, w: Float[Tensor, " batch *shape"]
    ) -> "DenseLinearization | JacobianLinearization":
        """G(w) and products with J; in small dimension the whole J at once."""
        if w.ndim == 2 and w.shape[1] <= SMALL_DIMENSION:
            whole = self.runner.compiles(w)
            numbers = evaluate_whole(self, w) if whole else self.value_and_jacobian(w)
            return JacobianLinearization(self, w, *numbers)
        return DenseLinearization(self, w, *dense_value_and_slopes(w, *self._parts()))

    def value_and_jacobian(
        self, w: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim dim"]]:
        """G(w) and J(w) with a graph, operation by operation."""
        return dense_value_and_jacobian(w, *self._parts())

    @property
    def unroll(self) -> int:
        """Evaluations that are worth making before anyone looks at their result."""
        return self.runner.unroll

    def run(
        self, function: PureFunction, w: Float[Tensor, "batch dim"], *arguments: object
    ) -> tuple[Tensor, ...]:
        """`function(pure_map, w, *arguments)`, without a graph."""
        return self.runner.run(function, self._parts(), w, arguments)

    def linearization(
        self,
        point: Float[Tensor, "batch dim"],
        value: Float[Tensor, "batch dim"],
        jacobian: Float[Tensor, "batch dim dim"],
    ) -> JacobianLinearization:
        """The linearization that has these numbers."""
        return JacobianLinearization(self, point, value, jacobian)

    def _parts(self) -> DenseParts:
        return DenseParts(self.weights, self.biases, self.features, self.activations)

    def select(self, index: Index) -> "DenseBound":
        """The map for a subset of the batch."""
        return replace(self, features=tuple(f[index] for f in self.features))

    def tensors(self) -> tuple[Tensor, ...]:
        """Weights, biases, activation parameters, conditioner features."""
        return self._parts().flat()

    def with_tensors(self, tensors: Sequence[Tensor]) -> "DenseBound":
        """The same net with other tensors."""
        return DenseBound(*self._parts().with_flat(tensors), runner=self.runner)

    def __neg__(self) -> "DenseBound":
        """The map -G: the last layer changes its sign."""
        return replace(
            self,
            weights=(*self.weights[:-1], -self.weights[-1]),
            biases=(*self.biases[:-1], -self.biases[-1]),
        )


@dataclass(frozen=True)
class DenseLinearization:
    """A dense net at one point; the activation derivatives are kept."""

    bound: DenseBound
    point: Tensor
    value: Tensor
    slopes: tuple[Tensor, ...]

    def jvp(self, tangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """J t, one layer after the other."""
        return dense_jvp(tangent, self.bound.weights, self.slopes)

    def vjp(self, cotangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """Jᵀ g, last layer first."""
        return dense_vjp(cotangent, self.bound.weights, self.slopes)

    def jacobian(self) -> Float[Tensor, "batch dim dim"]:
        """J as a matrix per sample."""
        return jacobian_by_products(self.jvp, self.point)

    def select(self, index: Index) -> "DenseLinearization":
        """The same linearization for a subset of the batch."""
        return replace(
            self,
            bound=self.bound.select(index),
            point=self.point[index],
            value=self.value[index],
            slopes=tuple(s[index] for s in self.slopes),
        )

    def first_order(self) -> FirstOrder:
        """Paths that cross at most one nonlinearity, J₁, with its exact trace.

        J₁ = Wˣ + Σᵢ W^(i) φ'ᵢ Wᵢˣ, where Wᵢˣ reads the input and W^(i) what layer i wrote; the
        last layer is pointwise, so the trace needs only the centre taps.
        """
        return FirstOrder(self._first_order_jvp, self._first_order_trace)

    def _blocks(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(input columns of layer i, slope of layer i, columns of the last layer reading it)."""
        c = self.bound.weights[0].shape[1]
        last, start = self.bound.weights[-1], c
        blocks: list[tuple[Tensor, Tensor, Tensor]] = []
        for weight, slope in zip(self.bound.weights[:-1], self.slopes, strict=True):
            width = slope.shape[1]
            blocks.append((weight[:, :c], slope, last[:, start : start + width]))
            start += width
        return blocks

    def _first_order_jvp(self, t: Tensor) -> Tensor:
        last = self.bound.weights[-1]
        dim = -1 if last.ndim == 2 else -3
        result = affine(t, last[:, : t.shape[dim]])
        for read, slope, write in self._blocks():
            result = result + affine(through(affine(t, read), slope, dim), write)
        return result

    def _first_order_trace(self) -> Float[Tensor, " batch"]:
        last, c = self.bound.weights[-1], self.bound.weights[0].shape[1]
        positions = prod(self.point.shape[2:])
        trace = positions * _centre(last)[:, :c].trace() + self.point.new_zeros(len(self.point))
        for read, slope, write in self._blocks():
            centre = _centre(read)
            taps = torch.cat([centre] * (slope.shape[1] // centre.shape[0]))
            weights = torch.einsum("ok,ko->k", _centre(write), taps)
            trace = trace + slope.unsqueeze(-1).flatten(2).sum(-1) @ weights
        return trace


def _centre(weight: Tensor) -> Tensor:
    """The centre tap of a kernel, or the matrix itself."""
    return weight if weight.ndim == 2 else weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]


@final
class DenseNet(LipschitzMap):
    """G of i-DenseNets: `depth` dense layers and a last (1x1) layer back to the input size.

    Args:
        channels: Features of a vector, or channels of an image.
        growth: Channels that every dense layer adds (before halving for concatenating ones).
        depth: Number of dense layers.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        coeff: Bound on the spectral norm of every layer, in (0, 1).
        concat_bound: Bound on the weights of the concatenation, in (0, 1].
        map_size: `(height, width)` of images; None for vectors.
        kernel_size: Of the dense layers on images.
        context_features: Features (channels) of the context, which shifts every pre-activation
            and so leaves the Lipschitz constant alone; None for no context.

    Source: Perugachi-Diaz, Tomczak, Bhulai 2021, §3; Ahn et al. 2022 (Monotone Flows), §4.
    """

    def __init__(
        self,
        channels: int,
        *,
        growth: int = 16,
        depth: int = 3,
        activation: str = "cpila",
        coeff: float = 0.98,
        concat_bound: float = 0.98,
        map_size: tuple[int, int] | None = None,
        kernel_size: int = 3,
        context_features: int | None = None,
    ) -> None:
        super().__init__((channels, *(map_size or ())))
        _check(channels, growth, depth, concat_bound)
        self.activations = nn.ModuleList(make_activation(activation) for _ in range(depth))
        expansion = self._activations()[0].expansion
        if growth % expansion:
            raise ValueError(
                f"expected a growth that {activation} can halve, got {growth}; use an even one"
            )
        layers: list[LipschitzLayer] = []
        for i in range(depth + 1):
            inputs = channels + i * growth
            outputs = growth // expansion if i < depth else channels
            if map_size is None:
                layers.append(LipschitzLinear(inputs, outputs, coeff=coeff))
            else:
                kernel = kernel_size if i < depth else 1
                layers.append(LipschitzConv2d(inputs, outputs, kernel, map_size, coeff=coeff))
        self.layers = nn.ModuleList(layers)
        self.concat = nn.Parameter(torch.ones(depth, 2))
        self.concat_bound = concat_bound
        widths = [growth // expansion] * depth
        self.conditioner = (
            None if context_features is None else Conditioner(context_features, widths, map_size)
        )
        self.runner: Runner = EAGER

    def bind_weights(self) -> DenseBound:
        """Normalise the weights and fold the concatenation into them."""
        return self.bind_group([self])[0]

    def binding_key(self) -> Hashable | None:
        """Shapes, bounds and kinds of parameters, in small dimension."""
        layers = self._layers()
        if layers[0].weight.ndim > 2 or layers[0].weight.shape[1] > SMALL_DIMENSION:
            return None
        parameters = [self.concat, *(layer.weight for layer in layers)]
        kinds = [(p.shape, p.dtype, p.device, p.requires_grad) for p in parameters]
        return (*kinds, *(layer.coeff for layer in layers), self.concat_bound)

    def bind_group(self, maps: Sequence[LipschitzMap]) -> list[DenseBound]:
        """Normalise the weights of equal nets and fold their concatenations in."""
        nets = [cast(DenseNet, m) for m in maps]
        columns = list(zip(*(net._layers() for net in nets), strict=True))
        weights = effective(
            [torch.stack([layer.weight for layer in column]) for column in columns],
            [torch.stack([layer.direction for layer in column]) for column in columns],
            [layer.coeff for layer in self._layers()],
            torch.stack([net.concat for net in nets]),
            self.concat_bound,
        )
        per_net = zip(*(stack.unbind() for stack in weights), strict=True)
        return [net._bound(own) for net, own in zip(nets, per_net, strict=True)]

    def _bound(self, weights: tuple[Tensor, ...]) -> DenseBound:
        return DenseBound(
            weights=weights,
            biases=tuple(bias_of(layer) for layer in self._layers()),
            features=(),
            activations=tuple(bind_activation(a) for a in self._activations()),
            runner=self.runner,
        )

    def attach(self, bound: BoundMap, context: Context) -> BoundMap:
        """Add the conditioner's features, if there is one."""
        if self.conditioner is None:
            return bound
        return replace(cast(DenseBound, bound), features=self.conditioner.features(context))

    def certificate(self) -> float:
        """Π √(η₁² + η₂² σᵢ² Lip(φ)²) · σ, with certified σᵢ."""
        with torch.no_grad():
            eta = concatenation(self.concat.double(), self.concat_bound).tolist()
        layers = self._layers()
        bound = layers[-1].certificate()
        for i, (keep, write) in enumerate(eta):
            gain = layers[i].certificate() * self._activations()[i].lipschitz
            bound *= sqrt(keep**2 + (write * gain) ** 2)
        return bound

    def _layers(self) -> list[LipschitzLayer]:
        return [cast(LipschitzLayer, layer) for layer in self.layers]

    def _activations(self) -> list[Activation]:
        return [cast(Activation, a) for a in self.activations]


def _check(channels: int, growth: int, depth: int, concat_bound: float) -> None:
    if min(channels, growth, depth) < 1:
        raise ValueError(
            f"expected positive sizes, got channels={channels}, growth={growth}, depth={depth}"
        )
    if not 0 < concat_bound <= 1:
        raise ValueError(f"expected concat_bound in (0, 1], got {concat_bound}")
