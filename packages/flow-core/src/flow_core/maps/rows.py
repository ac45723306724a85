"""Values and whole Jacobians of narrow nets, as rows of one tensor whose batch comes last."""

import torch
from flow_kernels.autograd import is_transformed
from jaxtyping import Float
from torch import Tensor

from flow_core.maps.bound_activation import BoundActivation
from flow_core.maps.joins import Join, Rows, rows_of


class RowsOfNet:
    """What the layers of a net have made, as rows; in place where no graph is wanted.

    Args:
        join: How layers join.
        channels: That the last layer reads.
        w: The point, shape (batch, dim).
        first: What the first layer reads, and its derivatives.
    """

    def __init__(
        self, join: Join, channels: int, w: Float[Tensor, "batch dim"], first: tuple[Tensor, Tensor]
    ) -> None:
        recorded = torch.is_grad_enabled() or is_transformed() or torch.compiler.is_compiling()
        self._join = join
        self._room = None if recorded else join.room(channels, w)
        self.rows = rows_of(*first) if self._room is None else self._room.write(*first)

    def write(self, value: Tensor, tangents: Tensor) -> None:
        """Join what a layer has made."""
        if self._room is None:
            self.rows = self._join.forth(self.rows, rows_of(value, tangents), 0)
        else:
            self.rows = self._room.write(value, tangents)


def affine_rows(rows: Rows, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Values and tangents after a layer; channels first."""
    made = (weight @ rows.flatten(1)).view(weight.shape[0], *rows.shape[1:])
    return made[:, 0] + bias.unsqueeze(1), made[:, 1:]


def activated_rows(
    activation: BoundActivation, value: Tensor, tangents: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and tangents after an activation; channels first."""
    value, slope = activation.value_and_slope(value, 0)
    return value, activation.push(tangents, slope.unsqueeze(1), -3)


def unit_rows(w: Float[Tensor, "batch dim"]) -> tuple[Tensor, Tensor]:
    """The point, and the unit tangents of every sample."""
    batch, d = w.shape
    units = torch.eye(d, dtype=w.dtype, device=w.device).unsqueeze(-1).expand(d, d, batch)
    return w.T, units
