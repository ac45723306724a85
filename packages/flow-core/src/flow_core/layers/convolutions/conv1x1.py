"""One invertible matrix for the channels of every pixel."""

import math
from collections.abc import Callable
from typing import final

import torch
from flow_solvers import require_kind
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.domain import Domain, LocalBounds
from flow_core.layers.matrices import FreeMatrix, InvertibleMatrix, matrix_bounds
from flow_core.layers.per_channel import require_channels, spread, summed_over_pixels
from flow_core.lipschitz.plain import affine_bounds
from flow_core.passes import Direction, Pass


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
        example = "an InvertibleMatrix or a number of channels"
        require_kind("matrix", matrix, (InvertibleMatrix, int), example)
        self.matrix = FreeMatrix(matrix) if isinstance(matrix, int) else matrix
        self.bias = nn.Parameter(torch.zeros(self.matrix.size)) if bias else None

    @torch.no_grad()
    def bounds(self) -> Bounds:
        """The largest singular value of W and one over the smallest, in float64."""
        return matrix_bounds(in_float64(self.matrix.dense()))

    @torch.no_grad()
    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """The same everywhere; the image is that of every pixel."""
        bounds, matrix = self.bounds(), in_float64(self.matrix.dense())
        bias = matrix.new_zeros(len(matrix)) if self.bias is None else in_float64(self.bias)
        norm = bounds.transform
        if direction == "inverse":
            matrix = torch.linalg.inv(matrix)
            norm, bias = bounds.inverse, -(matrix @ bias)
        image = affine_bounds(norm, matrix[..., None, None], bias, domain, domain.shape).image
        # W⁻¹ and W⁻¹b were rounded.
        return LocalBounds(bounds, image.wider(1e-9 * (1 + bounds.transform * bounds.inverse)))

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Refuse other numbers of channels."""
        require_channels(self, x, self.matrix.size, how)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        pixels = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
        y = (self.matrix.dense() @ pixels).view(x.shape)
        y = y if self.bias is None else y + spread(self.bias, x)
        return y, how.log_det(x, lambda: summed_over_pixels(self.matrix.log_abs_det(), x))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        centred = y if self.bias is None else y - spread(self.bias, y)
        x = over_pixels(self.matrix.solve, centred)
        return x, how.log_det(y, lambda: -summed_over_pixels(self.matrix.log_abs_det(), y))


def over_pixels(
    function: Callable[[Float[Tensor, "c columns"]], Float[Tensor, "c columns"]],
    x: Float[Tensor, "batch c *spatial"],
) -> Float[Tensor, "batch c *spatial"]:
    """Apply a function of columns of channels to all pixels of a batch at once."""
    columns = x.transpose(0, 1)
    # Without the shape an empty batch would leave the size of -1 open.
    moved = function(columns.reshape(x.shape[1], x.numel() // x.shape[1]))
    return moved.view(columns.shape).transpose(0, 1)
