"""Pickled dictionaries of byte arrays, read without running anything that they ask for.

A pickle is a program: it names functions and has them called. The files of the CIFAR family need
three names, all of numpy. Here each stands for an inert object that only remembers what it is
given; a pickle with any other name is refused before it gets an object for it.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flow_data.integrity import DataError

_EXPECTED = "a pickled dictionary of byte arrays, lists and text"


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that these files do not need."""


class _ByteType:
    """Stands for `numpy.dtype("u1")`."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which bytes do not have."""


class ByteArray:
    """Stands for a `numpy.ndarray` of unsigned bytes."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: object) -> None:
        """Version, shape, type, whether columns come first, and the bytes decoded as latin1."""
        match state:
            case (_, tuple() as shape, _ByteType(), bool() as columns_first, str() as content):
                flat = np.frombuffer(content.encode("latin1"), dtype=np.uint8)
                self.values = flat.reshape(shape, order="F" if columns_first else "C")
            case _:
                raise _Refused("an array of something else than bytes")


class _NewArray:
    """Stands for numpy's function that makes an array for its content to follow."""

    __slots__ = ()

    def __call__(self, *_: object) -> ByteArray:
        return ByteArray()


class _ArrayType:
    """Stands for the class `numpy.ndarray`, which nothing may call."""

    __slots__ = ()


class _NewType:
    """Stands for the class `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, code: object, *_: object) -> _ByteType:
        if code not in ("u1", "|u1"):
            raise _Refused(f"an array of type {code}")
        return _ByteType()


_STAND_INS: dict[tuple[str, str], Callable[[], object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _NewArray,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _NewType,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> object:
        """A fresh stand-in, so that no pickle can leave anything behind in one."""
        if (module_name, global_name) not in _STAND_INS:
            raise _Refused(f"one that asks for {module_name}.{global_name}")
        return _STAND_INS[module_name, global_name]()


def read_pickle(path: Path, content: bytes) -> dict[object, object]:
    """The dictionary in a pickle of Python 2 and numpy, with text decoded as latin1.

    Args:
        path: Where the content comes from, for messages.
        content: The whole pickle.

    Raises:
        DataError: The pickle is spoilt, or asks for anything but byte arrays.
    """
    try:
        value = _InertUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _Refused as error:
        remedy = "do not use this file: nothing in it was run; fetch the published one"
        raise DataError(path, _EXPECTED, str(error), remedy) from error
    # A spoilt pickle is a program with errors: it can raise anything.
    except Exception as error:
        found = f"a spoilt one ({error or type(error).__name__})"
        raise DataError(path, _EXPECTED, found, "fetch the file again") from error
    if not isinstance(value, dict):
        raise DataError(path, _EXPECTED, f"a {type(value).__name__}", "fetch the file again")
    return dict(value)
