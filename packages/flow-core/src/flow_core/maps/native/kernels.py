"""C functions over pieces of memory."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from flow_core.maps.native.places import Place


class CFunction(NamedTuple):
    """A C function.

    Attributes:
        parameters: Types of elements that its parameters point to, and their names.
        body: Its statements.
        arguments: What it is called with: pieces of memory and offsets.
    """

    parameters: tuple[tuple[str, str], ...]
    body: str
    arguments: tuple[tuple[int, int], ...]


class Step(Protocol):
    """Something to do with memory."""

    def loaded(self) -> Iterable[int]:
        """The pieces of memory that are read."""
        ...

    def kernel(self, kept: frozenset[int]) -> CFunction | None:
        """Its code, where only some pieces of memory are read later."""
        ...


class Pointers:
    """The parameters of a function, in the order of their first use."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int, str], str] = {}

    def at(self, place: Place, indices: Sequence[str]) -> str:
        """An element; one index a dimension."""
        key = place.base, place.offset, place.c_type
        name = self._names.setdefault(key, f"p{len(self._names)}")
        terms = [f"{i} * {s}" for i, s in zip(indices, place.strides, strict=True) if s]
        return f"{name}[{' + '.join(terms) or '0'}]"

    def kernel(self, lines: Iterable[str]) -> CFunction:
        """The function with all parameters that were used."""
        body = "\n".join(lines)
        parameters = [(kind, name) for (_, _, kind), name in self._names.items()]
        arguments = [(base, offset) for base, offset, _ in self._names]
        return CFunction(tuple(parameters), body, tuple(arguments))


def head(index: str, size: int) -> str:
    """The head of a loop."""
    return f"for (long {index} = 0; {index} < {size}; ++{index}) {{"
