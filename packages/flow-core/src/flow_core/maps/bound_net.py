"""A net with its effective weights, as a value: its evaluation and its whole Jacobian."""

from dataclasses import dataclass, replace

import torch
from flow_solvers import SMALL_DIMENSION, CompiledMap, JacobianLinearization
from jaxtyping import Float
from torch import Tensor

from flow_core.maps.compilation import StretchOfSolve, compiled_linearization, run_compiled
from flow_core.maps.joins import CONCATENATE, Rows, rows_of
from flow_core.maps.net_layers import NetLayers
from flow_core.maps.net_linearization import DenseLinearization, NetLinearization
from flow_core.maps.net_record import NetRecord
from flow_core.maps.operators import channel_dim
from flow_core.maps.rows import RowsOfNet, activated_rows, affine_rows, unit_rows


@dataclass(frozen=True)
class BoundNet(NetLayers, CompiledMap):
    """A net with everything that it depends on fixed; see `NetLayers` for its fields."""

    def __call__(self, w: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """G(w); compiled where no graph is wanted."""
        if self._is_compiled_for(w) and not torch.is_grad_enabled():
            return run_compiled(_value, self, w)[0]
        dim = channel_dim(self.weights[0])
        h = self.entered(w if self.preact is None else self.preact.value(w, dim))
        for i, activation in enumerate(self.activations):
            h = self.join.forth(h, activation.value(self.layer(i, h), dim), dim)
        return self.layer(len(self.activations), h)

    def linearize(
        self, w: Float[Tensor, " batch *shape"]
    ) -> NetLinearization | JacobianLinearization:
        """G(w) and products with J; in small dimension the whole J at once."""
        if w.ndim == 2 and w.shape[1] <= SMALL_DIMENSION:
            if self._is_compiled_for(w):
                return compiled_linearization(self, w)
            return JacobianLinearization(self, w, *self.value_and_jacobian(w))
        return self._traced(w).linearization

    def record(self, w: Float[Tensor, " batch *shape"]) -> NetRecord:
        """G(w) with all that derivatives need, without a graph."""
        with torch.no_grad():
            return self._traced(w.detach())

    def _traced(self, w: Float[Tensor, " batch *shape"]) -> NetRecord:
        dim, entered = channel_dim(self.weights[0]), w
        slopes: list[Tensor] = []
        made: list[Tensor] = []
        if self.preact is not None:
            entered, slope = self.preact.value_and_slope(w, dim)
            slopes.append(slope)
        h = self.entered(entered)
        kept = self.join.keep([], h)
        for i, activation in enumerate(self.activations):
            made.append(self.layer(i, h))
            written, slope = activation.value_and_slope(made[-1], dim)
            h = self.join.forth(h, written, dim)
            kept = self.join.keep(kept, h)
            slopes.append(slope)
        value = self.layer(len(self.activations), h)
        linearization = self._kind()(self, w, value, tuple(slopes))
        return NetRecord(linearization, entered, tuple(kept), tuple(made))

    def value_and_jacobian(
        self, w: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim dim"]]:
        """G(w) and the whole J by forward mode, for small dimension.

        Works on `(channels, 1 + dim, batch)`: row 0 carries the value and the others the unit
        tangents, so that a layer is one product; the batch comes last because layers are narrow.
        """
        first = unit_rows(w)
        first = first if self.preact is None else activated_rows(self.preact, *first)
        first = first if self.entrance is None else affine_rows(rows_of(*first), *self.entrance)
        h = RowsOfNet(self.join, self.weights[-1].shape[1], w, first)
        for i, activation in enumerate(self.activations):
            h.write(*activated_rows(activation, *self._layer_rows(i, h.rows)))
        value, tangents = self._layer_rows(len(self.activations), h.rows)
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

    def eager(self) -> "BoundNet":
        """The same net, never compiled."""
        return replace(self, batch_sizes=frozenset())

    def kind(self) -> tuple[object, ...]:
        """Equal for nets that compiled code serves alike."""
        shapes = [(t.shape, t.dtype, t.device) for t in self.tensors()]
        kinds = [a.kind() for a in self.all_activations()]
        optional = self.preact is None, self.entrance is None, len(self.features)
        return (*shapes, *kinds, type(self.join), *optional)

    def is_closed(self) -> bool:
        """Whether the net depends on nothing but its kind and its tensors."""
        return all(a.is_closed() for a in self.all_activations())

    def _is_compiled_for(self, w: Tensor) -> bool:
        # Not even asked for its length where nothing is: torch.compile would make a graph of each.
        return bool(self.batch_sizes) and len(w) in self.batch_sizes

    def _kind(self) -> type[NetLinearization]:
        dense = self.join is CONCATENATE and self.preact is None and self.entrance is None
        return DenseLinearization if dense else NetLinearization

    def _layer_rows(self, i: int, h: Rows) -> tuple[Tensor, Tensor]:
        value, tangents = affine_rows(h, self.weights[i], self.biases[i])
        return value + self.features[i].T if i < len(self.features) else value, tangents


def _value(net: BoundNet, w: Tensor) -> tuple[Tensor, ...]:
    return (net(w),)
