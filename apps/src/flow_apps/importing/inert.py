"""Pickles of foreign programs, read without running or importing anything that they name.

A pickle is a program: it names functions and classes and has them called. Those of published
checkpoints name tensors, which torch makes, and classes of the program that wrote them, which are
not here. Each class stands for itself as an inert one that only remembers what it is given. Names
that are not known are treated alike, whatever they are: nothing outside of this module is called.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from torch import _utils

_NUMBERS = {f"{kind}{size}" for kind in "fiu" for size in (1, 2, 4, 8)} - {"f1"} | {"b1"}


class Inert:
    """Stands for an object of a class that is not here.

    Attributes:
        state: What the pickle gave it as its attributes.
    """

    def __new__(cls, *_: object, **__: object) -> "Inert":
        """Whatever the class is made from is dropped."""
        made = super().__new__(cls)
        made.state = {}
        return made

    state: dict[str, object]

    def __init__(self, *_: object, **__: object) -> None:
        """Nothing is kept."""

    def __call__(self, *_: object, **__: object) -> "Inert":
        """A method of such an object gives another one."""
        return Inert()

    def __setstate__(self, state: object) -> None:
        """Remember attributes."""
        if isinstance(state, Mapping):
            self.state = {str(k): v for k, v in cast(Mapping[object, object], state).items()}

    def __setitem__(self, key: object, value: object) -> None:
        """Dropped: entries of a foreign dictionary."""

    def append(self, value: object) -> None:
        """Dropped: entries of a foreign list."""

    def extend(self, values: object) -> None:
        """Dropped likewise."""

    def add(self, value: object) -> None:
        """Dropped: entries of a foreign set."""


@dataclass(frozen=True, slots=True)
class _Function:
    """Stands for a function, and is not the function itself, which a pickle could change."""

    function: Callable[..., object]

    def __call__(self, *arguments: object) -> object:
        return self.function(*arguments)


class _Number:
    """Stands for the type of a numpy scalar."""

    __slots__ = ("code",)

    def __init__(self, code: object) -> None:
        self.code = str(code).lstrip("<|=")
        if self.code not in _NUMBERS:
            raise pickle.UnpicklingError(f"a numpy scalar of type {code}")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment: little endian, or nothing is read."""
        match state:
            case (_, "<" | "|" | "=", *_):
                pass
            case _:
                raise pickle.UnpicklingError("a numpy scalar of an unknown byte order")


def _number(code: object, *_: object) -> _Number:
    return _Number(code)


def _scalar(kind: object, content: object = b"", *_: object) -> object:
    raw = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(kind, _Number) or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a numpy scalar of an unknown form")
    return cast(object, np.frombuffer(raw, kind.code)[0].item())


def _encode(text: object, encoding: object = "latin1", *_: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("text in an unknown encoding")
    return text.encode("latin1")


def _ordered(*items: Any) -> object:  # noqa: ANN401 (whatever the pickle gives)
    return OrderedDict(*items)


def _size(sizes: Any = ()) -> object:  # noqa: ANN401 (whatever the pickle gives)
    return tuple(sizes)


def _parameter(data: object, requires_grad: object, *_: object) -> object:
    """The tensor of a parameter: hooks and classes are not wanted."""
    del requires_grad
    return data


# torch.save names what makes tensors by its private name.
_CALLED: dict[tuple[str, str], Callable[..., object]] = {
    ("torch._utils", "_rebuild_tensor"): _utils._rebuild_tensor,  # pyright: ignore[reportPrivateUsage]
    ("torch._utils", "_rebuild_tensor_v2"): _utils._rebuild_tensor_v2,  # pyright: ignore[reportPrivateUsage]
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _number,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("torch", "Size"): _size,
    ("torch.serialization", "_get_layout"): lambda *_: None,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> object:
        """A stand-in of its own for every pickle, so that none can leave anything behind."""
        known = _CALLED.get((module_name, global_name))
        if known is not None:
            return _Function(known)
        # A class, because pickles make objects with __new__ too.
        return type(global_name, (Inert,), {"__module__": "foreign", "origin": module_name})


def _load(file: io.BytesIO, *, encoding: str = "ASCII") -> object:
    return _Restricted(file, encoding=encoding).load()


FOREIGN = SimpleNamespace(Unpickler=_Restricted, load=_load, __name__=__name__)
"""What `torch.load` takes as `pickle_module`."""


@dataclass
class Claims:
    """What the storages of a pickle say of their size.

    Attributes:
        sizes: How many numbers each has, by its key: tensors may share one.
    """

    sizes: dict[object, int] = field(default_factory=dict[object, int])

    def add(self, claim: object) -> object:
        """Count the claim of one storage, for which nothing is allocated; a class is itself."""
        match claim:
            case ("storage", _, str() as key, _, int() as count, *_) if count >= 0:
                self.sizes[key] = count
            case ("module", kind, *_):
                return kind
            case _:
                raise pickle.UnpicklingError("a storage of an unknown form")
        return Inert()


class _Counting(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, claims: Claims) -> None:
        super().__init__(file, encoding="utf-8")
        self._claims = claims

    def find_class(self, module_name: str, global_name: str, /) -> object:
        """Nothing is made but dictionaries."""
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return _Function(_ordered)
        return type(global_name, (Inert,), {})

    def persistent_load(self, pid: object, /) -> object:
        """Count what is not loaded."""
        return self._claims.add(pid)


def claimed_numbers(content: bytes, pickles_before: int = 0) -> int:
    """How many numbers the tensors of a pickle claim to have, without allocating them.

    Args:
        content: Begins with the pickles.
        pickles_before: How many to skip.
    """
    file, claims = io.BytesIO(content), Claims()
    for _ in range(pickles_before + 1):
        _Counting(file, claims).load()
    return sum(claims.sizes.values())
