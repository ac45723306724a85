"""A record of one evaluation of a net: every first derivative without another evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch
from flow_solvers import Functional, Index, Linearization, Unpack, added, gradients, leaves_of
from jaxtyping import Float
from torch import Tensor

from flow_core.maps.net_layers import NetLayers
from flow_core.maps.net_linearization import NetLinearization
from flow_core.maps.operators import affine_transpose, affine_weight_gradient, channel_dim


@dataclass(frozen=True)
class NetRecord:
    """An evaluation of a net with all that its derivatives need.

    Attributes:
        linearization: The net linearized there.
        entered: What the entrance, if there is one, reads.
        kept: Of what the layers read, see `Join.keep`.
        made: What the layers but the last give to their activations.
    """

    linearization: NetLinearization
    entered: Tensor
    kept: tuple[Tensor, ...]
    made: tuple[Tensor, ...]

    def pull_back(self, needed: Sequence[bool]) -> "NetPullBack":
        """Begin a pull-back; see `flow_solvers.PullBack`."""
        return NetPullBack(self, needed)

    def packed(self) -> tuple[tuple[Tensor, ...], Unpack]:
        """All tensors but those of the net; see `flow_solvers.Recorded`."""
        at = self.linearization
        groups = ((at.point, at.value, self.entered), at.slopes, self.kept, self.made)
        sizes = [len(group) for group in groups]
        unpack = partial(_unpacked, type(at), at.bound, sizes)
        return tuple(t for group in groups for t in group), unpack


def _unpacked(
    kind: type[NetLinearization], net: NetLayers, sizes: Sequence[int], tensors: Sequence[Tensor]
) -> NetRecord:
    """The record of its tensors, which come in groups of such sizes."""
    queue = iter(tensors)
    (point, value, entered), slopes, kept, made = (
        tuple(next(queue) for _ in range(size)) for size in sizes
    )
    return NetRecord(kind(net, point, value, slopes), entered, kept, made)


@dataclass(frozen=True)
class _Product:
    """Jᵀ g, with the cotangents on its way."""

    cotangent: Tensor
    image: Tensor
    way: list[Tensor]


class _Observed:
    """A linearization whose products with Jᵀ are remembered, as far as they are of all samples."""

    def __init__(self, plain: NetLinearization) -> None:
        self._plain = plain
        self.bound, self.point, self.value = plain.bound, plain.point, plain.value
        self.products: list[_Product] = []

    def jvp(self, tangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """J t."""
        return self._plain.jvp(tangent)

    def vjp(self, cotangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """Jᵀ g."""
        image, way = self._plain.pulled(cotangent)
        if cotangent.shape == self.point.shape:
            self.products.append(_Product(cotangent, image, way))
        return image

    def jacobian(self) -> Float[Tensor, "batch dim dim"]:
        """J as a matrix per sample."""
        return self._plain.jacobian()

    def select(self, index: Index) -> NetLinearization:
        """The same for a subset of the batch, unobserved."""
        return self._plain.select(index)

    def combination(self, along: Tensor) -> tuple[Tensor, list[Tensor]] | None:
        """Jᵀ along and its way, where that is a sum of orthonormal products that were made.

        A Krylov solver leaves its solution so, and then no other product is needed.
        """
        if not self.products:
            return None
        basis = torch.stack([p.cotangent.flatten(1) for p in self.products], 1)
        flat = along.flatten(1).unsqueeze(2)
        weights = basis @ flat
        missed = torch.linalg.vector_norm(flat - basis.mT @ weights, dim=1)
        allowed = 16 * torch.finfo(flat.dtype).eps * torch.linalg.vector_norm(flat, dim=1)
        if not bool((missed <= allowed).all()):
            return None
        image = _weighted(weights, [p.image for p in self.products])
        ways = zip(*(p.way for p in self.products), strict=True)
        return image, [_weighted(weights, cotangents) for cotangents in ways]


@final
class NetPullBack:
    """Collects cotangents of what the layers of a net make.

    A pass from the last layer to the first gives the gradient by the point. What it finds for the
    layers is added up, so that the weights, which take as long as a pass, have their gradients
    once for all passes.
    """

    def __init__(self, record: NetRecord, needed: Sequence[bool]) -> None:
        self._record, self._needed = record, list(needed)
        net = record.linearization.bound
        self._net, self._dim = net, channel_dim(net.weights[0])
        self._observed = _Observed(record.linearization)
        self._along: list[Tensor | None] = [None for _ in net.weights]
        self._along_entrance: Tensor | None = None
        self._found: list[Tensor | None] = [None for _ in net.tensors()]

    @property
    def linearization(self) -> Linearization:
        """That of the record; products with Jᵀ that were made by it need not be made again."""
        return self._observed

    def value(self, along: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """Add ⟨G(w), along⟩; its gradient by w."""
        learned = any(activation.params for activation in self._net.all_activations())
        known = None if learned else self._observed.combination(along)
        if known is None:
            return self._pass(along, [None for _ in self._record.linearization.slopes])
        image, way = known
        if self._net.entrance is not None:
            self._along_entrance = added(self._along_entrance, way.pop())
        for i, cotangent in enumerate(reversed(way)):
            self._collect(i, cotangent)
        return image

    def functional(
        self, function: Functional, weights: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch *shape"]:
        """Add Σ weights·function, which depends on w by the slopes alone; its gradient by w."""
        at, net = self._record.linearization, self._net
        slopes = leaves_of(at.slopes, [slope.is_floating_point() for slope in at.slopes])
        tensors = leaves_of(net.tensors(), self._needed)
        with torch.enable_grad():
            image = function(replace(at, bound=net.with_tensors(tensors), slopes=tuple(slopes)))
        wanted = [leaf.requires_grad for leaf in (*slopes, *tensors)]
        found = gradients([image], [*slopes, *tensors], wanted, [weights])
        for i, gradient in enumerate(found[len(slopes) :]):
            self._add(i, gradient)
        return self._pass(None, found[: len(slopes)])

    def tensors(self) -> list[Tensor | None]:
        """Gradients by the tensors of the net; None for those that are not needed."""
        count, features = len(self._along), len(self._found) - len(self._net.features)
        for i, along in enumerate(self._along):
            if along is None:
                continue
            weight = self._net.weights[i]
            if self._needed[i]:
                read = self._net.join.read(self._record.kept, i, weight.shape[1], self._dim)
                self._add(i, affine_weight_gradient(read, along, weight))
            self._add_sum(count + i, along)
            if i < len(self._net.features):
                self._add_sum(features + i, along)
        self._add_entrance()
        kept = zip(self._found, self._needed, strict=True)
        return [g if n else None for g, n in kept]

    def _pass(
        self, along: Tensor | None, along_slopes: Sequence[Tensor | None]
    ) -> Float[Tensor, " batch *shape"]:
        """From the last layer to the first; the gradient by w."""
        net, slopes, made = self._net, list(along_slopes), self._record.made
        last, g = len(made), along
        if g is not None:
            self._collect(last, g)
            g = affine_transpose(g, net.weights[last])
        for i in reversed(range(last)):
            width = self._record.linearization.slopes[len(slopes) - 1].shape[self._dim]
            kept, written = (None, None) if g is None else net.join.back(g, width, self._dim)
            g = self._through(len(slopes) - 1, made[i], written, slopes.pop())
            self._collect(i, g)
            g = affine_transpose(g, net.weights[i])
            g = g if kept is None else kept + g
        return self._leave(g, slopes)

    def _leave(self, g: Tensor | None, slopes: list[Tensor | None]) -> Tensor:
        """Through the entrance and the activation in front."""
        net, point = self._net, self._record.linearization.point
        if g is not None and net.entrance is not None:
            self._along_entrance = added(self._along_entrance, g)
            g = affine_transpose(g, net.entrance[0])
        if net.preact is not None:
            return self._through(0, point, g, slopes.pop())
        return torch.zeros_like(point) if g is None else g

    def _through(self, k: int, a: Tensor, g: Tensor | None, along_slope: Tensor | None) -> Tensor:
        """The gradient of ⟨φ(a), g⟩ + ⟨φ'(a), along_slope⟩ by a, for activation k of all."""
        activation = self._net.all_activations()[k]
        if along_slope is None and not activation.params:
            slope = self._record.linearization.slopes[k]
            width = a.shape[self._dim]
            return torch.zeros_like(a) if g is None else activation.pull(g, slope, width, self._dim)
        leaves = [t.detach().requires_grad_() for t in (a, *activation.params)]
        with torch.enable_grad():
            renewed = replace(activation, params=tuple(leaves[1:]))
            outputs = renewed.value_and_slope(leaves[0], self._dim)
        pairs = [(o, c) for o, c in zip(outputs, (g, along_slope), strict=True) if c is not None]
        by_a, *by_params = gradients(
            [o for o, _ in pairs], leaves, [True for _ in leaves], [c for _, c in pairs]
        )
        for i, gradient in enumerate(by_params, self._place(k)):
            self._add(i, gradient)
        assert by_a is not None
        return by_a

    def _place(self, k: int) -> int:
        """Where the parameters of activation k are among the tensors."""
        before = self._net.all_activations()[:k]
        return 2 * len(self._net.weights) + sum(len(activation.params) for activation in before)

    def _collect(self, i: int, along: Tensor) -> None:
        self._along[i] = added(self._along[i], along)

    def _add(self, i: int, gradient: Tensor | None) -> None:
        self._found[i] = added(self._found[i], gradient)

    def _add_sum(self, i: int, along: Tensor) -> None:
        """The gradient of what was added to every pixel, or sample."""
        if self._needed[i]:
            ones = (1,) * (-1 - self._dim)
            shape = self._net.tensors()[i].shape
            whole = shape if len(shape) == along.ndim else (*shape, *ones)
            self._add(i, along.sum_to_size(whole).reshape(shape))

    def _add_entrance(self) -> None:
        along, entrance = self._along_entrance, self._net.entrance
        if along is None or entrance is None:
            return
        weight = self._place(len(self._net.all_activations()))
        if self._needed[weight]:
            self._add(weight, affine_weight_gradient(self._record.entered, along, entrance[0]))
        self._add_sum(weight + 1, along)


def _weighted(
    weights: Float[Tensor, "batch products 1"], tensors: Sequence[Tensor]
) -> Float[Tensor, " batch *shape"]:
    """Σ weights·tensors, sample by sample."""
    shape = (len(weights), *(1,) * (tensors[0].ndim - 1))
    total = weights[:, 0].view(shape) * tensors[0]
    for k in range(1, len(tensors)):
        total = torch.addcmul(total, weights[:, k].view(shape), tensors[k])
    return total
