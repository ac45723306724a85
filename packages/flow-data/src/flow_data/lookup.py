"""Look a thing up by name, with suggestions for names that are not there."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def look_up(table: Mapping[str, Value], name: str, kind: str) -> Value:
    """The entry of that name.

    Raises:
        ValueError: There is none; the message suggests the nearest names.
    """
    if name not in table:
        near = difflib.get_close_matches(name, table, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(table)}"
        raise ValueError(f"expected the name of a {kind}, got {name!r}; {hint}")
    return table[name]
