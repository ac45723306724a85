"""How what a layer makes joins what the layers before it have made."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

Rows = Tensor
"""Values and tangents of a batch that comes last, shape (channels, 1 + dim, batch)."""


class Join(ABC):
    """A rule of joining along the dimension of channels."""

    @abstractmethod
    def inputs(self, first: int, hidden: Sequence[int]) -> list[int]:
        """Channels that every layer reads, the last too; `hidden` are those that layers write."""

    @abstractmethod
    def forth(self, h: Tensor, written: Tensor, dim: int) -> Tensor:
        """What the next layer reads."""

    @abstractmethod
    def back(self, g: Tensor, width: int, dim: int) -> tuple[Tensor | None, Tensor]:
        """The cotangents of h, None for zero, and of the `width` channels that were written."""

    @abstractmethod
    def keep(self, kept: Sequence[Tensor], h: Tensor) -> list[Tensor]:
        """What is worth keeping of all that layers read so far, where the next one reads h."""

    @abstractmethod
    def read(self, kept: Sequence[Tensor], layer: int, channels: int, dim: int) -> Tensor:
        """What a layer read, so many channels, from all that was kept."""

    @abstractmethod
    def room(self, channels: int, like: Tensor) -> "Room":
        """Memory for the rows of a net whose last layer reads so many channels, without a graph."""


class Room(ABC):
    """Where rows of a net are written to, layer by layer."""

    @abstractmethod
    def write(self, value: Tensor, tangents: Tensor) -> Rows:
        """Write what a layer has made, and give what the next one reads."""


class Concatenate(Join):
    """A layer reads all that was before: h ← [h, written]."""

    def inputs(self, first: int, hidden: Sequence[int]) -> list[int]:
        """Sums."""
        return list(accumulate([first, *hidden]))

    def forth(self, h: Tensor, written: Tensor, dim: int) -> Tensor:
        """[h, written]."""
        return torch.cat([h, written], dim)

    def back(self, g: Tensor, width: int, dim: int) -> tuple[Tensor | None, Tensor]:
        """The two parts of g."""
        kept, written = torch.split(g, [g.shape[dim] - width, width], dim)
        return kept, written

    def keep(self, kept: Sequence[Tensor], h: Tensor) -> list[Tensor]:
        """The last layer reads all that others do."""
        del kept
        return [h]

    def read(self, kept: Sequence[Tensor], layer: int, channels: int, dim: int) -> Tensor:
        """The first channels."""
        del layer
        return kept[-1].narrow(dim, 0, channels)

    def room(self, channels: int, like: Tensor) -> Room:
        """One piece of memory, so that nothing is copied."""
        batch, dim = like.shape
        return _Stack(like.new_empty(channels, 1 + dim, batch))


class Replace(Join):
    """A layer reads what the last one wrote: h ← written."""

    def inputs(self, first: int, hidden: Sequence[int]) -> list[int]:
        """What was written last."""
        return [first, *hidden]

    def forth(self, h: Tensor, written: Tensor, dim: int) -> Tensor:
        """What was written."""
        del h, dim
        return written

    def back(self, g: Tensor, width: int, dim: int) -> tuple[Tensor | None, Tensor]:
        """All of it to what was written."""
        del width, dim
        return None, g

    def keep(self, kept: Sequence[Tensor], h: Tensor) -> list[Tensor]:
        """No layer reads what another one does."""
        return [*kept, h]

    def read(self, kept: Sequence[Tensor], layer: int, channels: int, dim: int) -> Tensor:
        """One of them."""
        del channels, dim
        return kept[layer]

    def room(self, channels: int, like: Tensor) -> Room:
        """New memory for every layer."""
        del channels, like
        return _Sheets()


class _Stack(Room):
    def __init__(self, room: Tensor) -> None:
        self._room = room
        self._used = 0

    def write(self, value: Tensor, tangents: Tensor) -> Rows:
        rows = self._room[self._used : self._used + len(value)]
        rows[:, 0], rows[:, 1:] = value, tangents
        self._used += len(value)
        return self._room[: self._used]


class _Sheets(Room):
    def write(self, value: Tensor, tangents: Tensor) -> Rows:
        return rows_of(value, tangents)


def rows_of(value: Tensor, tangents: Tensor) -> Rows:
    """Values in row 0, tangents in the others."""
    return torch.cat([value.unsqueeze(1), tangents], 1)


CONCATENATE, REPLACE = Concatenate(), Replace()
