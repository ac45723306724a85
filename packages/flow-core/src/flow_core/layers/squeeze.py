"""Space to depth."""

from typing import final

from torch import Tensor

from flow_core.layers.rearrangement import Rearrangement
from flow_core.passes import Pass


@final
class Squeeze(Rearrangement):
    """Trade f x f pixels for f² channels: `(batch, c, h·f, w·f)` to `(batch, c·f², h, w)`.

    Output channels are ordered (c, row offset, column offset). The log-determinant is 0. Source:
    Dinh et al. 2017, §3.6.

    Args:
        factor: Side f of the squares of pixels.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__((None, None, None))
        if factor < 1:
            raise ValueError(f"expected a positive factor, got {factor}")
        self.factor = factor

    def extra_repr(self) -> str:
        """Factor shown in the representation of a model."""
        return f"factor={self.factor}"

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Refuse images that the factor does not divide."""
        _, channels, height, width = x.shape
        f = self.factor
        if how.direction == "transform" and (height % f or width % f):
            raise ValueError(
                f"Squeeze: expected x of height and width divisible by {f}, got {tuple(x.shape)}; "
                "pad or crop the images, or squeeze less often"
            )
        if how.direction == "inverse" and channels % (f * f):
            raise ValueError(
                f"Squeeze: expected y of channels divisible by {f * f}, got {tuple(x.shape)}"
            )

    def _moved(self, x: Tensor) -> Tensor:
        """Pixels to channels."""
        batch, c, h, w = x.shape
        f = self.factor
        # pixel_unshuffle leaves an empty batch in its old shape.
        cells = x.reshape(batch, c, h // f, f, w // f, f)
        return cells.permute(0, 1, 3, 5, 2, 4).reshape(batch, c * f * f, h // f, w // f)

    def _moved_back(self, y: Tensor) -> Tensor:
        """Channels to pixels."""
        batch, c, h, w = y.shape
        f = self.factor
        cells = y.reshape(batch, c // (f * f), f, f, h, w)
        return cells.permute(0, 1, 4, 2, 5, 3).reshape(batch, c // (f * f), h * f, w * f)
