"""Fixed permutations of channels."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Context
from flow_core.layers.rearrangement import Rearrangement
from flow_core.rounding import without_rounding


@final
class Permutation(Rearrangement):
    """y[:, i] = x[:, index[i]], a fixed order of dimension 1; the log-determinant is 0.

    Args:
        index: The channel that each output channel comes from.
    """

    index: Tensor

    def __init__(self, index: Sequence[int]) -> None:
        super().__init__()
        if sorted(index) != list(range(len(index))):
            raise ValueError(
                f"expected every channel from 0 to {len(index) - 1} once, got {list(index)}"
            )
        self.register_buffer("index", torch.tensor(list(index)))

    @classmethod
    def reversal(cls, channels: int) -> "Permutation":
        """Channels in reverse order."""
        return cls(range(channels - 1, -1, -1))

    @classmethod
    def random(cls, channels: int, generator: torch.Generator | None = None) -> "Permutation":
        """A uniformly random order, drawn once; the order is part of the state."""
        order: list[int] = torch.randperm(channels, generator=generator).tolist()
        return cls(order)

    def extra_repr(self) -> str:
        """Size shown in the representation of a model."""
        return f"channels={self.index.numel()}"

    @without_rounding
    def transform(
        self,
        x: Float[Tensor, "batch channels *spatial"],
        *,
        context: Context = None,
    ) -> Float[Tensor, "batch channels *spatial"]:
        """The channels of x in the order `index`."""
        return self._check(x).index_select(1, self.index)

    @without_rounding
    def inverse(
        self,
        y: Float[Tensor, "batch channels *spatial"],
        *,
        context: Context = None,
    ) -> Float[Tensor, "batch channels *spatial"]:
        """The channels of y back where they came from."""
        return self._check(y).index_select(1, torch.argsort(self.index))

    def _check(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.index.numel():
            raise ValueError(
                f"expected {self.index.numel()} channels in dimension 1, got shape {tuple(x.shape)}"
            )
        return x
