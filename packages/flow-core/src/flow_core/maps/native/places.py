"""Where tensors lie."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "long long",
    torch.bool: "unsigned char",
}


class Place(NamedTuple):
    """Elements of a piece of memory.

    Attributes:
        base: Number of the piece of memory.
        offset: Of the first element.
        shape: Sizes.
        strides: In elements.
        dtype: Of the elements.
    """

    base: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @property
    def c_type(self) -> str:
        """The type of an element in C."""
        return C_TYPES[self.dtype]

    def broadcast(self, shape: tuple[int, ...]) -> "Place":
        """The same elements for every index of a larger shape."""
        missing = len(shape) - len(self.shape)
        own = zip(self.shape, self.strides, shape[missing:], strict=True)
        strides = (*(0 for _ in range(missing)), *(s if n == m else 0 for n, s, m in own))
        return self._replace(shape=shape, strides=strides)

    def squeezed(self) -> "Place":
        """Without dimensions of length one."""
        kept = [i for i, n in enumerate(self.shape) if n != 1]
        shape, strides = (tuple(t[i] for i in kept) for t in (self.shape, self.strides))
        return self._replace(shape=shape, strides=strides)

    def permuted(self, order: tuple[int, ...]) -> "Place":
        """Dimensions in another order."""
        shape, strides = (tuple(t[i] for i in order) for t in (self.shape, self.strides))
        return self._replace(shape=shape, strides=strides)


@lru_cache(maxsize=4096)
def overlap(a: Place, b: Place) -> bool:
    """Whether two places share an element."""
    return a.base == b.base and bool(np.isin(_elements(a), _elements(b)).any())


def _elements(place: Place) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    found = np.array(place.offset)
    for size, stride in zip(place.shape, place.strides, strict=True):
        found = np.add.outer(found, np.arange(size) * stride)
    return found.ravel()
