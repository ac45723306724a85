"""The same values in another shape."""

import math
from collections.abc import Sequence
from typing import final

from torch import Tensor

from flow_core.layers.rearrangement import Rearrangement


@final
class Reshape(Rearrangement):
    """Give every sample another shape, row-major; the log-determinant is 0.

    Args:
        source: Shape of a sample that comes in.
        target: Shape of a sample that goes out.
    """

    def __init__(self, source: Sequence[int], target: Sequence[int]) -> None:
        super().__init__(source, target)
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

    def _moved(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.target)

    def _moved_back(self, y: Tensor) -> Tensor:
        return y.reshape(y.shape[0], *self.source)
