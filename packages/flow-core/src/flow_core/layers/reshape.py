"""The same values in another shape."""

import math
from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Context
from flow_core.layers.rearrangement import Rearrangement
from flow_core.rounding import without_rounding


@final
class Reshape(Rearrangement):
    """Give every sample another shape, row-major; the log-determinant is 0.

    Args:
        source: Shape of a sample that comes in.
        target: Shape of a sample that goes out.
    """

    def __init__(self, source: Sequence[int], target: Sequence[int]) -> None:
        super().__init__()
        self.source, self.target = tuple(source), tuple(target)
        if math.prod(self.source) != math.prod(self.target) or min(self.source, default=1) < 1:
            raise ValueError(
                f"expected two shapes with equally many values, got {self.source} and {self.target}"
            )

    @classmethod
    def flatten(cls, source: Sequence[int]) -> "Reshape":
        """Samples of shape `source` to vectors."""
        return cls(source, (math.prod(source),))

    def extra_repr(self) -> str:
        """Shapes shown in the representation of a model."""
        return f"{self.source} -> {self.target}"

    @without_rounding
    def transform(
        self,
        x: Float[Tensor, " batch *source"],
        *,
        context: Context = None,
    ) -> Float[Tensor, " batch *target"]:
        """The values of x in the target shape."""
        return _reshaped(x, self.source, self.target)

    @without_rounding
    def inverse(
        self,
        y: Float[Tensor, " batch *target"],
        *,
        context: Context = None,
    ) -> Float[Tensor, " batch *source"]:
        """The values of y in the source shape."""
        return _reshaped(y, self.target, self.source)


def _reshaped(x: Tensor, source: tuple[int, ...], target: tuple[int, ...]) -> Tensor:
    if tuple(x.shape[1:]) != source:
        raise ValueError(f"expected samples of shape {source}, got a batch {tuple(x.shape)}")
    return x.reshape(x.shape[0], *target)
