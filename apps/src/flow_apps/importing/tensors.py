"""Tensors of a published state, taken one by one, so that none is missed and none left over."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from flow_apps.errors import CheckpointError

_REMEDY = "use a file of a published layout, see docs/guides.md"


class Taken:
    """A state from which tensors are taken by name.

    Args:
        path: Of the file, for messages.
        tensors: The state.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path = path
        self._left = dict(tensors)

    def has(self, name: str) -> bool:
        """Whether there is such a tensor, which nothing has taken."""
        return name in self._left

    def shape(self, name: str) -> torch.Size:
        """The shape of a tensor, which stays.

        Raises:
            CheckpointError: There is none.
        """
        if name not in self._left:
            raise self.refused(f"a tensor {name}", "none")
        return self._left[name].shape

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor of a shape.

        Raises:
            CheckpointError: There is none, or it has another shape.
        """
        if self.shape(name) != shape:
            raise self.refused(f"{name} of shape {shape}", str(tuple(self.shape(name))))
        return self._left.pop(name)

    def require_empty(self) -> None:
        """Refuse what nothing has taken.

        Raises:
            CheckpointError: Something is left.
        """
        if self._left:
            names = ", ".join(sorted(self._left)[:3])
            raise self.refused("no other tensors", f"{len(self._left)} more, such as {names}")

    def refused(self, expected: str, found: str) -> CheckpointError:
        """The error for what is no known layout."""
        return CheckpointError(f"{self.path}: expected {expected}, got {found}; {_REMEDY}")


@torch.no_grad()
def put(target: Tensor | nn.Parameter, value: Tensor) -> None:
    """Copy a value into a parameter or buffer of the same number of values."""
    target.copy_(value.reshape(target.shape))
