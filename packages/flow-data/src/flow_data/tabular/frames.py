"""Pickled tables of pandas, read without pandas and without running anything that they ask for.

A pickle is a program: it names functions and has them called. Those of a table of numbers need a
dozen names of pandas and numpy, which have moved between modules over the years. Here each stands
for an inert object that only remembers what it is given, and a pickle with any other name is
refused before it gets an object for it.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from flow_data.integrity import DataError, unreadable

_EXPECTED = "a pickled pandas table of numbers"
_TYPES = {f"{kind}{size}" for kind in "fiu" for size in (1, 2, 4, 8)} - {"f1"}


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that a table of numbers does not need."""


@dataclass(frozen=True)
class PickledFrame:
    """What a pickled table holds.

    Attributes:
        columns: Names of its columns.
        values: Its numbers, shape `(rows, columns)`.
    """

    columns: tuple[str, ...]
    values: npt.NDArray[np.float64]


class _Type:
    """Stands for a `numpy.dtype`; None for objects."""

    __slots__ = ("dtype",)

    def __init__(self, code: object) -> None:
        text = str(code).lstrip("<>|=")
        if text not in {*_TYPES, "O", "O8", "O4"}:
            raise _Refused(f"an array of type {code}")
        self.dtype = None if text.startswith("O") else np.dtype(text)

    def __setstate__(self, state: object) -> None:
        """Version and byte order; what else there is belongs to types that are refused."""
        match state:
            case (_, "<" | ">" | "|" | "=" as order, None, None, None, *_):
                if self.dtype is not None and order in "<>":
                    self.dtype = self.dtype.newbyteorder(order)
            case _:
                raise _Refused("an array of records")


class _Array:
    """Stands for a `numpy.ndarray` of numbers, or of names."""

    __slots__ = ("names", "values")

    def __init__(self) -> None:
        self.values: npt.NDArray[np.float64] = np.empty(0)
        self.names: list[object] | None = None

    def __setstate__(self, state: object) -> None:
        """Version, shape, type, whether columns come first, and the content."""
        match state:
            case (_, tuple() as shape, _Type() as kind, bool() | int() as columns_first, content):
                self.fill(content, kind, shape, "F" if columns_first else "C")
            case _:
                raise _Refused("an array of an unknown form")

    def fill(self, content: object, kind: _Type, shape: tuple[object, ...], order: str) -> None:
        """Take the content over."""
        if isinstance(content, list) and kind.dtype is None:
            self.names = list(cast(list[object], content))
        elif isinstance(content, str | bytes | bytearray) and kind.dtype is not None:
            # Python 2 had texts for bytes.
            raw = content.encode("latin1") if isinstance(content, str) else content
            sizes = tuple(size for size in shape if isinstance(size, int))
            flat = np.frombuffer(raw, dtype=kind.dtype).astype(np.float64)
            self.values = flat.reshape(sizes, order="F" if order == "F" else "C")
        else:
            raise _Refused("an array of something else than numbers and names")


@dataclass(frozen=True, slots=True)
class _Function:
    """Stands for a function, and is not the function itself, which a pickle could change."""

    function: Callable[..., object]

    def __call__(self, *arguments: object) -> object:
        return self.function(*arguments)


class _Inert:
    """Stands for a class that is only named."""

    def __new__(cls, *_: object) -> "_Inert":
        raise _Refused("an object of a kind that a table of numbers does not need")


class _Rows:
    """Stands for the index of rows, whose values nobody needs."""

    def __setstate__(self, state: object) -> None:
        raise _Refused("an index of an unknown form")


class _Blocks:
    """Stands for `BlockManager`: columns of one type together, with their places."""

    def __init__(self, blocks: object = (), axes: object = (), *_: object) -> None:
        self.blocks = blocks
        self.axes = axes

    def __setstate__(self, state: object) -> None:
        """The form of pandas 0.14 to 1.2; later ones hand the same to the constructor."""
        match state:
            case (_, _, _, {"0.14.1": {"axes": axes, "blocks": list() as blocks}}):
                self.axes = axes
                found = cast(list[dict[str, object]], blocks)
                self.blocks = tuple(_block(b["values"], b["mgr_locs"]) for b in found)
            case _:
                raise _Refused("blocks of an unknown form")


class _Frame:
    """Stands for `DataFrame`."""

    def __init__(self) -> None:
        self.blocks: object = None

    def __setstate__(self, state: object) -> None:
        """Blocks, by a name that changed with pandas 1.1."""
        match state:
            case {"_mgr": _Blocks() as blocks} | {"_data": _Blocks() as blocks}:
                self.blocks = blocks
            case _:
                raise _Refused("a table of an unknown form")


def _block(values: object, places: object, *_: object) -> tuple[object, object]:
    return values, places


def _index(_kind: object, attributes: object, *_: object) -> object:
    match attributes:
        case {"data": _Array() as data}:
            return data
        case _:
            return _Rows()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(content: object, kind: object, shape: object, order: object) -> _Array:
    array = _Array()
    if not isinstance(kind, _Type) or not isinstance(shape, tuple):
        raise _Refused("an array of an unknown form")
    array.fill(content, kind, cast(tuple[object, ...], shape), str(order))
    return array


def _type(code: object, *_: object) -> _Type:
    return _Type(code)


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"text in {encoding}")
    return text.encode("latin1")


def _slice(*limits: object) -> slice:
    if not all(limit is None or isinstance(limit, int) for limit in limits):
        raise _Refused("a slice of something else than numbers")
    return slice(*limits)


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "_reconstruct": _reconstruct,
    "_frombuffer": _from_buffer,
    "dtype": _type,
    "encode": _encode,
    "slice": _slice,
    "_unpickle_block": _block,
    "_new_Index": _index,
}
_CLASSES: dict[str, type] = {
    "ndarray": _Inert,
    "Index": _Inert,
    "Int64Index": _Inert,
    "UInt64Index": _Inert,
    "Float64Index": _Inert,
    "NumericIndex": _Inert,
    "RangeIndex": _Inert,
    "BlockManager": _Blocks,
    "DataFrame": _Frame,
}
_MODULES = {
    "numpy": ("dtype", "ndarray", "_reconstruct", "_frombuffer"),
    "pandas": (
        *("DataFrame", "BlockManager", "_unpickle_block", "_new_Index"),
        *("Index", "Int64Index", "UInt64Index", "Float64Index", "NumericIndex", "RangeIndex"),
    ),
    "builtins": ("slice",),
    "__builtin__": ("slice",),
    "_codecs": ("encode",),
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> object:
        """A fresh stand-in, so that no pickle can leave anything behind in one."""
        if global_name not in _MODULES.get(module_name.split(".", maxsplit=1)[0], ()):
            raise _Refused(f"one that asks for {module_name}.{global_name}")
        if global_name in _CLASSES:
            return type(global_name, (_CLASSES[global_name],), {})
        return _Function(_FUNCTIONS[global_name])


def read_frame(path: Path) -> PickledFrame:
    """The numbers of a pickled pandas table.

    Raises:
        DataError: The file is missing or unreadable, the pickle is spoilt, or asks for anything but
            a table of numbers.
    """
    try:
        return _table(_load(path.read_bytes()))
    except OSError as error:
        raise unreadable(path, error) from error
    except _Refused as error:
        remedy = "do not use this file: nothing in it was run; fetch the published one"
        raise DataError(path, _EXPECTED, str(error), remedy) from error
    # A spoilt pickle is a program with errors: it can raise anything.
    except Exception as error:
        found = f"a spoilt one ({error or type(error).__name__})"
        raise DataError(path, _EXPECTED, found, "fetch the file again") from error


def _load(content: bytes) -> object:
    return _InertUnpickler(io.BytesIO(content), encoding="latin1").load()


def _table(found: object) -> PickledFrame:
    if not isinstance(found, _Frame) or not isinstance(found.blocks, _Blocks):
        raise _Refused(f"a {type(found).__name__}")
    axes = found.blocks.axes
    names = _names(axes[0]) if isinstance(axes, list | tuple) and axes else ()
    blocks = cast(tuple[tuple[object, object], ...], found.blocks.blocks)
    rows = {array.values.shape[1] for array, _ in blocks if isinstance(array, _Array)}
    if len(rows) != 1 or not names:
        raise _Refused("columns of different lengths")
    values = np.full((*rows, len(names)), np.nan)
    filled = np.zeros(len(names), dtype=np.int64)
    for array, places in blocks:
        if not isinstance(array, _Array) or array.names is not None:
            raise _Refused("columns that are no numbers")
        at = places if isinstance(places, slice) else _places(places)
        values[:, at] = array.values.T
        filled[at] += 1
    if not (filled == 1).all():
        raise _Refused("blocks that do not make a table")
    return PickledFrame(names, values)


def _names(axis: object) -> tuple[str, ...]:
    if not isinstance(axis, _Array) or axis.names is None:
        raise _Refused("columns without names")
    return tuple(map(str, axis.names))


def _places(found: object) -> npt.NDArray[np.int64]:
    if not isinstance(found, _Array):
        raise _Refused("blocks without places")
    return found.values.astype(np.int64)
