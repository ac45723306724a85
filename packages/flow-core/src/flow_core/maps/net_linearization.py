"""A net at one point: its value and products with its Jacobian."""

from dataclasses import dataclass, replace
from math import prod

from flow_solvers import Index
from jaxtyping import Float
from torch import Tensor

from flow_core.maps.bound_activation import BoundActivation
from flow_core.maps.linearizations import FirstOrderPart, jacobian_by_products
from flow_core.maps.net_layers import NetLayers
from flow_core.maps.operators import (
    affine,
    affine_of_shared,
    affine_transpose,
    centre_tap,
    channel_dim,
)


@dataclass(frozen=True)
class NetLinearization:
    """A net at one point; the derivatives of the activations are kept."""

    bound: NetLayers
    point: Tensor
    value: Tensor
    slopes: tuple[Tensor, ...]

    def jvp(self, tangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """J t, one layer after the other."""
        net, slopes, t = self.bound, list(self.slopes), tangent
        dim = channel_dim(net.weights[0])
        if net.preact is not None:
            t = net.preact.push(t, slopes.pop(0), dim)
        if net.entrance is not None:
            t = affine_of_shared(t, net.entrance[0])
        for weight, activation, slope in zip(
            net.weights[:-1], net.activations, slopes, strict=True
        ):
            image = affine_of_shared(t, weight)
            t = net.join.forth(t, activation.push(image, slope, dim), dim)
        return affine(t, net.weights[-1])

    def vjp(self, cotangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """Jᵀ g, last layer first."""
        return self.pulled(cotangent)[0]

    def pulled(self, cotangent: Float[Tensor, "*probes"]) -> tuple[Tensor, list[Tensor]]:
        """Jᵀ g, and the cotangents on the way.

        They are those of what the layers make, the last one first, and of what an entrance makes.
        """
        net, slopes, way = self.bound, list(self.slopes), [cotangent]
        dim, g = channel_dim(net.weights[0]), affine_transpose(cotangent, net.weights[-1])
        for weight, activation in zip(
            reversed(net.weights[:-1]), reversed(net.activations), strict=True
        ):
            slope = slopes.pop()
            kept, written = net.join.back(g, slope.shape[dim], dim)
            way.append(activation.pull(written, slope, weight.shape[0], dim))
            g = affine_transpose(way[-1], weight)
            g = g if kept is None else kept + g
        if net.entrance is not None:
            way.append(g)
            g = affine_transpose(g, net.entrance[0])
        if net.preact is not None:
            g = net.preact.pull(g, slopes.pop(), self.point.shape[dim], dim)
        return g, way

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
