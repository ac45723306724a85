"""Saved tensors that are computed again when a backward pass asks for them.

As checkpoints of torch do that are not reentrant, whose first use imports Dynamo: seconds, and more
memory than most models here. The graph is that of an ordinary pass, in which every saved tensor is
a slot.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class _Enough(Exception):
    """All that is asked for has been computed again."""


class _Slot:
    """Stands for a saved tensor."""

    def __init__(self, x: Tensor) -> None:
        self._kind = x.shape, x.dtype
        # A layer may have a backward pass of its own inside.
        self._present: Tensor | None = x
        self._found: tuple[int, Tensor] | None = None

    def forget(self) -> None:
        """The forward pass is over."""
        self._present = None

    def fill(self, task: int, x: Tensor) -> None:
        """Have the tensor for a backward pass."""
        if (x.shape, x.dtype) != self._kind:
            raise RuntimeError(_another(f"{tuple(x.shape)} {x.dtype}, at first {self._kind}"))
        self._found = task, x

    def take(self, task: int) -> Tensor | None:
        """Give the tensor away, if there is one for this backward pass."""
        if self._present is not None:
            return self._present
        found, self._found = self._found, None
        return found[1] if found is not None and found[0] == task else None


class Frame:
    """Stands for the saved tensors of some operations.

    Args:
        source: What the operations are run with once more; called outside of them.
        again: Runs them, in their order.
    """

    def __init__(self, source: Callable[[], Tensor], again: Callable[[Tensor], object]) -> None:
        self._source, self._again = source, again
        # A slot lives as long as the graph needs it.
        self._slots: list[ReferenceType[_Slot]] = []

    @contextmanager
    def saving(self) -> Generator[None]:
        """Operations inside save slots."""
        try:
            with saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            for held in self._slots:
                slot = held()
                if slot is not None:
                    slot.forget()

    def _pack(self, x: Tensor) -> _Slot:
        slot = _Slot(x)
        self._slots.append(ref(slot))
        return slot

    def _unpack(self, slot: _Slot) -> Tensor:
        # No public name; record() asks the same way.
        task = torch._C._current_graph_task_id()  # pyright: ignore[reportPrivateUsage]
        found = slot.take(task)
        if found is None:
            self._fill(task)
            found = slot.take(task)
        assert found is not None
        return found

    def _fill(self, task: int) -> None:
        """Run once more, until every slot has its tensor."""
        count, x = 0, self._source()

        def pack(x: Tensor) -> Tensor:
            nonlocal count
            x = x.detach()
            slot = self._slots[count]() if count < len(self._slots) else None
            count += 1
            if slot is not None:
                slot.fill(task, x)
            if count == len(self._slots):
                raise _Enough
            return x

        try:
            with torch.enable_grad(), saved_tensors_hooks(pack, lambda x: x):
                self._again(x)
        except _Enough:
            return
        raise RuntimeError(_another(f"{count} tensors, at first {len(self._slots)}"))


def _another(what: str) -> str:
    return (
        f"expected a layer that does the same when it is called again, got one that saved {what}; "
        "a layer may depend on its input, parameters, buffers and torch's random numbers only"
    )
