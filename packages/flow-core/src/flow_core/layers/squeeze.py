"""Space to depth."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Context
from flow_core.layers.rearrangement import Rearrangement
from flow_core.rounding import without_rounding


@final
class Squeeze(Rearrangement):
    """Trade f x f pixels for f² channels: `(batch, c, h·f, w·f)` to `(batch, c·f², h, w)`.

    Output channels are ordered (c, row offset, column offset). The log-determinant is 0. Source:
    Dinh et al. 2017, §3.6.

    Args:
        factor: Side f of the squares of pixels.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"expected a positive factor, got {factor}")
        self.factor = factor

    def extra_repr(self) -> str:
        """Factor shown in the representation of a model."""
        return f"factor={self.factor}"

    @without_rounding
    def transform(
        self,
        x: Float[Tensor, "batch c h w"],
        *,
        context: Context = None,
    ) -> Float[Tensor, "batch c2 h2 w2"]:
        """Pixels to channels."""
        if x.ndim != 4 or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"expected (batch, c, h, w) with h and w divisible by {self.factor}, got "
                f"{tuple(x.shape)}"
            )
        batch, c, h, w = x.shape
        f = self.factor
        # pixel_unshuffle leaves an empty batch in its old shape.
        cells = x.reshape(batch, c, h // f, f, w // f, f)
        return cells.permute(0, 1, 3, 5, 2, 4).reshape(batch, c * f * f, h // f, w // f)

    @without_rounding
    def inverse(
        self,
        y: Float[Tensor, "batch c h w"],
        *,
        context: Context = None,
    ) -> Float[Tensor, "batch c2 h2 w2"]:
        """Channels to pixels."""
        if y.ndim != 4 or y.shape[1] % self.factor**2:
            raise ValueError(
                f"expected (batch, c, h, w) with c divisible by {self.factor**2}, got "
                f"{tuple(y.shape)}"
            )
        batch, c, h, w = y.shape
        f = self.factor
        cells = y.reshape(batch, c // (f * f), f, f, h, w)
        return cells.permute(0, 1, 4, 2, 5, 3).reshape(batch, c // (f * f), h * f, w * f)
