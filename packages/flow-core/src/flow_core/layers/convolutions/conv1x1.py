"""One invertible matrix for the channels of every pixel."""

import math
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection, Context
from flow_core.layers.matrices import FreeMatrix, InvertibleMatrix
from flow_core.rounding import without_rounding


@final
class Conv1x1(Bijection):
    """y = W·x + b over the channels of `(batch, c)` or `(batch, c, h, w)`.

    log|det ∂y/∂x| = (values per channel)·log|det W|. Source: Kingma & Dhariwal 2018, §3.2.

    Args:
        matrix: W, or the number of channels for a free matrix.
        bias: Whether there is a b.
    """

    def __init__(self, matrix: InvertibleMatrix | int, *, bias: bool = False) -> None:
        super().__init__()
        self.matrix = FreeMatrix(matrix) if isinstance(matrix, int) else matrix
        self.bias = nn.Parameter(torch.zeros(self.matrix.size)) if bias else None

    @without_rounding
    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """W·x + b."""
        pixels = self._check(x).reshape(*x.shape[:2], math.prod(x.shape[2:]))
        y = (self.matrix.dense() @ pixels).view(x.shape)
        return y if self.bias is None else y + self._spread(self.bias, x)

    @without_rounding
    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """W⁻¹·(y − b)."""
        centred = (
            self._check(y) if self.bias is None else self._check(y) - self._spread(self.bias, y)
        )
        return over_pixels(self.matrix.solve, centred)

    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """W·x + b and log|det W| for every pixel."""
        return self.transform(x, context=context), self._log_det(x)

    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """W⁻¹·(y − b) and −log|det W| for every pixel."""
        return self.inverse(y, context=context), -self._log_det(y)

    @without_rounding
    def _log_det(self, x: Tensor) -> Tensor:
        return (math.prod(x.shape[2:]) * self.matrix.log_abs_det()).expand(x.shape[0])

    def _spread(self, values: Tensor, x: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (x.ndim - 2))

    def _check(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.matrix.size:
            raise ValueError(
                f"expected {self.matrix.size} channels in dimension 1, got shape {tuple(x.shape)}"
            )
        return x


def over_pixels(
    function: Callable[[Float[Tensor, "c columns"]], Float[Tensor, "c columns"]],
    x: Float[Tensor, "batch c *spatial"],
) -> Float[Tensor, "batch c *spatial"]:
    """Apply a function of columns of channels to all pixels of a batch at once."""
    columns = x.transpose(0, 1)
    # Without the shape an empty batch would leave the size of -1 open.
    moved = function(columns.reshape(x.shape[1], x.numel() // x.shape[1]))
    return moved.view(columns.shape).transpose(0, 1)
