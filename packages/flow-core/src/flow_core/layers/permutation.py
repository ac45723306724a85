"""Fixed permutations of channels."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flow_core.layers.rearrangement import Rearrangement
from flow_core.passes import Pass


@final
class Permutation(Rearrangement):
    """y[:, i] = x[:, index[i]], a fixed order of dimension 1; the log-determinant is 0.

    Samples are of shape `(channels, ...)`, with any dimensions behind the channels.

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
        self.channels = len(index)
        self.register_buffer("index", torch.tensor(list(index)))

    @classmethod
    def reversal(cls, channels: int) -> "Permutation":
        """Channels in reverse order."""
        return cls(range(channels - 1, -1, -1))

    @classmethod
    def random(cls, channels: int, generator: torch.Generator | None = None) -> "Permutation":
        """A uniformly random order, drawn once; the order is part of the state."""
        # Of the generator's device: a model that is made on the meta device has an order too.
        device = torch.device("cpu") if generator is None else generator.device
        order: list[int] = torch.randperm(channels, generator=generator, device=device).tolist()
        return cls(order)

    def extra_repr(self) -> str:
        """Size shown in the representation of a model."""
        return f"channels={self.channels}"

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Refuse other numbers of channels."""
        channels = self.channels
        if x.ndim < 2 or x.shape[1] != channels:
            name = "x" if how.direction == "transform" else "y"
            raise ValueError(
                f"Permutation: expected {name} of shape (batch, {channels}, ...), got "
                f"{tuple(x.shape)}; the batch comes first"
            )

    def _moved(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)

    def _moved_back(self, y: Tensor) -> Tensor:
        return y.index_select(1, torch.argsort(self.index))
