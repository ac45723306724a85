"""A net with its effective weights, as a value; its evaluation, products and whole Jacobian.

h₀ = φ₀(w), hᵢ₊₁ = join(hᵢ, φᵢ(Wᵢ hᵢ + bᵢ + cᵢ)), G(w) = W h + b; φ₀ is absent but for nets with
an activation in front. Where layers read a weighted concatenation, its weights are folded into the
columns of the Wᵢ beforehand: one evaluation then scales nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from flow_kernels.autograd import is_transformed
from flow_solvers import SMALL_DIMENSION, CompiledMap, Index, JacobianLinearization
from jaxtyping import Float
from torch import Tensor

from flow_core.maps.bound_activation import BoundActivation
from flow_core.maps.compilation import StretchOfSolve, compiled_linearization, run_compiled
from flow_core.maps.joins import CONCATENATE, Join, Rows, rows_of
from flow_core.maps.linearizations import FirstOrderPart, jacobian_by_products
from flow_core.maps.operators import affine, affine_transpose, centre_tap, channel_dim


@dataclass(frozen=True)
class BoundNet(CompiledMap):
    """A `LipschitzNet` with everything that it depends on fixed.

    Attributes:
        weights: Effective weights of all layers.
        biases: Their biases.
        activations: After every layer but the last.
        join: How layers join.
        preact: In front of the first layer.
        features: What the context adds to the layers before their activations.
        batch_sizes: For which evaluations are compiled.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activations: tuple[BoundActivation, ...]
    join: Join
    preact: BoundActivation | None = None
    features: tuple[Tensor, ...] = ()
    batch_sizes: frozenset[int] = frozenset()

    def __call__(self, w: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """G(w); compiled where no graph is wanted."""
        if self._is_compiled_for(w) and not torch.is_grad_enabled():
            return run_compiled(_value, self, w)[0]
        dim = channel_dim(self.weights[0])
        h = w if self.preact is None else self.preact.value(w, dim)
        for i, activation in enumerate(self.activations):
            h = self.join.forth(h, activation.value(self._layer(i, h), dim), dim)
        return affine(h, self.weights[-1], self.biases[-1])

    def linearize(
        self, w: Float[Tensor, " batch *shape"]
    ) -> "NetLinearization | JacobianLinearization":
        """G(w) and products with J; in small dimension the whole J at once."""
        if w.ndim == 2 and w.shape[1] <= SMALL_DIMENSION:
            if self._is_compiled_for(w):
                return compiled_linearization(self, w)
            return JacobianLinearization(self, w, *self.value_and_jacobian(w))
        dim, h = channel_dim(self.weights[0]), w
        slopes: list[Tensor] = []
        if self.preact is not None:
            h, slope = self.preact.value_and_slope(w, dim)
            slopes.append(slope)
        for i, activation in enumerate(self.activations):
            written, slope = activation.value_and_slope(self._layer(i, h), dim)
            h = self.join.forth(h, written, dim)
            slopes.append(slope)
        value = affine(h, self.weights[-1], self.biases[-1])
        return self._kind()(self, w, value, tuple(slopes))

    def value_and_jacobian(
        self, w: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim dim"]]:
        """G(w) and the whole J by forward mode, for small dimension.

        Works on `(channels, 1 + dim, batch)`: row 0 carries the value and the others the unit
        tangents, so that a layer is one product; the batch comes last because layers are narrow.
        """
        h = _Rows(self, w)
        for i, activation in enumerate(self.activations):
            value, tangents = self._layer_rows(i, h.rows)
            value = value + self.features[i].T if self.features else value
            h.write(*_activated(activation, value, tangents))
        value, tangents = self._layer_rows(-1, h.rows)
        return value.T, tangents.permute(2, 0, 1)

    @property
    def unroll(self) -> int:
        """What Newton's method usually needs, where looking costs more than evaluating."""
        return 3 if self.batch_sizes else 1

    def run(
        self, function: StretchOfSolve, w: Float[Tensor, "batch dim"], *arguments: object
    ) -> tuple[Tensor, ...]:
        """`function(self, w, *arguments)`, without a graph."""
        if self._is_compiled_for(w):
            return run_compiled(function, self, w, *arguments)
        with torch.no_grad():
            return function(self, w, *arguments)

    def select(self, index: Index) -> "BoundNet":
        """The map for a subset of the batch."""
        return replace(self, features=tuple(f[index] for f in self.features))

    def tensors(self) -> tuple[Tensor, ...]:
        """Weights, biases, activation parameters, conditioner features."""
        learned = [t for a in self._all_activations() for t in a.params]
        return (*self.weights, *self.biases, *learned, *self.features)

    def with_tensors(self, tensors: Sequence[Tensor]) -> "BoundNet":
        """The same net with other tensors."""
        queue = list(tensors)
        return BoundNet(
            weights=tuple(queue.pop(0) for _ in self.weights),
            biases=tuple(queue.pop(0) for _ in self.biases),
            preact=None if self.preact is None else _renewed(self.preact, queue),
            activations=tuple(_renewed(a, queue) for a in self.activations),
            features=tuple(queue.pop(0) for _ in self.features),
            join=self.join,
            batch_sizes=self.batch_sizes,
        )

    def eager(self) -> "BoundNet":
        """The same net, never compiled."""
        return replace(self, batch_sizes=frozenset())

    def kind(self) -> tuple[object, ...]:
        """Equal for nets that compiled code serves alike."""
        shapes = [(t.shape, t.dtype, t.device) for t in self.tensors()]
        kinds = [a.kind() for a in self._all_activations()]
        return (*shapes, *kinds, type(self.join), self.preact is None, bool(self.features))

    def is_closed(self) -> bool:
        """Whether the net depends on nothing but its kind and its tensors."""
        return all(a.is_closed() for a in self._all_activations())

    def __neg__(self) -> "BoundNet":
        """The map -G: the last layer changes its sign."""
        return replace(
            self,
            weights=(*self.weights[:-1], -self.weights[-1]),
            biases=(*self.biases[:-1], -self.biases[-1]),
        )

    def _is_compiled_for(self, w: Tensor) -> bool:
        # Not even asked for its length where nothing is: torch.compile would make a graph of each.
        return bool(self.batch_sizes) and len(w) in self.batch_sizes

    def _all_activations(self) -> tuple[BoundActivation, ...]:
        return self.activations if self.preact is None else (self.preact, *self.activations)

    def _kind(self) -> "type[NetLinearization]":
        dense = self.join is CONCATENATE and self.preact is None
        return DenseLinearization if dense else NetLinearization

    def _layer(self, i: int, h: Tensor) -> Tensor:
        a = affine(h, self.weights[i], self.biases[i])
        return a + self.features[i] if self.features else a

    def _layer_rows(self, i: int, h: Rows) -> tuple[Tensor, Tensor]:
        weight = self.weights[i]
        rows = (weight @ h.flatten(1)).view(weight.shape[0], *h.shape[1:])
        return rows[:, 0] + self.biases[i].unsqueeze(1), rows[:, 1:]


class _Rows:
    """What the layers of a net have made, as rows; in place where no graph is wanted."""

    def __init__(self, net: BoundNet, w: Float[Tensor, "batch dim"]) -> None:
        recorded = torch.is_grad_enabled() or is_transformed() or torch.compiler.is_compiling()
        self._join = net.join
        self._room = None if recorded else net.join.room(net.weights[-1].shape[1], w)
        batch, d = w.shape
        units = torch.eye(d, dtype=w.dtype, device=w.device).unsqueeze(-1).expand(d, d, batch)
        first = (w.T, units) if net.preact is None else _activated(net.preact, w.T, units)
        self.rows = rows_of(*first) if self._room is None else self._room.write(*first)

    def write(self, value: Tensor, tangents: Tensor) -> None:
        """Join what a layer has made."""
        if self._room is None:
            self.rows = self._join.forth(self.rows, rows_of(value, tangents), 0)
        else:
            self.rows = self._room.write(value, tangents)


@dataclass(frozen=True)
class NetLinearization:
    """A net at one point; the derivatives of the activations are kept."""

    bound: BoundNet
    point: Tensor
    value: Tensor
    slopes: tuple[Tensor, ...]

    def jvp(self, tangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """J t, one layer after the other."""
        net, slopes, t = self.bound, list(self.slopes), tangent
        dim = channel_dim(net.weights[0])
        if net.preact is not None:
            t = net.preact.push(t, slopes.pop(0), dim)
        for weight, activation, slope in zip(
            net.weights[:-1], net.activations, slopes, strict=True
        ):
            t = net.join.forth(t, activation.push(affine(t, weight), slope, dim), dim)
        return affine(t, net.weights[-1])

    def vjp(self, cotangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """Jᵀ g, last layer first."""
        net, slopes = self.bound, list(self.slopes)
        dim, g = channel_dim(net.weights[0]), affine_transpose(cotangent, net.weights[-1])
        for weight, activation in zip(
            reversed(net.weights[:-1]), reversed(net.activations), strict=True
        ):
            slope = slopes.pop()
            kept, written = net.join.back(g, slope.shape[dim], dim)
            g = affine_transpose(activation.pull(written, slope, weight.shape[0], dim), weight)
            g = g if kept is None else kept + g
        if net.preact is not None:
            g = net.preact.pull(g, slopes.pop(), self.point.shape[dim], dim)
        return g

    def jacobian(self) -> Float[Tensor, "batch dim dim"]:
        """J as a matrix per sample."""
        return jacobian_by_products(self.jvp, self.point)

    def select(self, index: Index) -> "NetLinearization":
        """The same linearization for a subset of the batch."""
        return replace(
            self,
            bound=self.bound.select(index),
            point=self.point[index],
            value=self.value[index],
            slopes=tuple(s[index] for s in self.slopes),
        )


@dataclass(frozen=True)
class DenseLinearization(NetLinearization):
    """A net of concatenating layers at one point: its first-order part has a known trace."""

    def first_order(self) -> FirstOrderPart:
        """Paths that cross at most one nonlinearity, J₁, with its exact trace.

        J₁ = Wˣ + Σᵢ W^(i) φ'ᵢ Wᵢˣ, where Wᵢˣ reads the input and W^(i) what layer i wrote; the
        last layer is pointwise, so the trace needs only the centre taps.
        """
        return FirstOrderPart(self._first_order_jvp, self._first_order_trace)

    def _paths(self) -> list[tuple[Tensor, BoundActivation, Tensor, Tensor]]:
        """(input columns of layer i, φᵢ, its slope, columns of the last layer reading it)."""
        net = self.bound
        c = net.weights[0].shape[1]
        last, start = net.weights[-1], c
        paths: list[tuple[Tensor, BoundActivation, Tensor, Tensor]] = []
        for weight, activation, slope in zip(
            net.weights[:-1], net.activations, self.slopes, strict=True
        ):
            width = slope.shape[1]
            paths.append((weight[:, :c], activation, slope, last[:, start : start + width]))
            start += width
        return paths

    def _first_order_jvp(self, t: Tensor) -> Tensor:
        last = self.bound.weights[-1]
        dim = channel_dim(last)
        result = affine(t, last[:, : t.shape[dim]])
        for read, activation, slope, write in self._paths():
            result = result + affine(activation.push(affine(t, read), slope, dim), write)
        return result

    def _first_order_trace(self) -> Float[Tensor, " batch"]:
        last, c = self.bound.weights[-1], self.bound.weights[0].shape[1]
        positions = prod(self.point.shape[2:])
        trace = positions * centre_tap(last)[:, :c].trace() + self.point.new_zeros(len(self.point))
        for read, activation, slope, write in self._paths():
            trace = trace + activation.trace(slope, (centre_tap(read) @ centre_tap(write)).mT)
        return trace


def _value(net: BoundNet, w: Tensor) -> tuple[Tensor, ...]:
    return (net(w),)


def _renewed(activation: BoundActivation, queue: list[Tensor]) -> BoundActivation:
    """The activation with the next tensors as its parameters."""
    return BoundActivation(activation.activation, tuple(queue.pop(0) for _ in activation.params))


def _activated(
    activation: BoundActivation, value: Tensor, tangents: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and tangents after an activation; channels first."""
    value, slope = activation.value_and_slope(value, 0)
    return value, activation.push(tangents, slope.unsqueeze(1), -3)
