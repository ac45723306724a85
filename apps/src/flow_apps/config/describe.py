"""Every field of a config, for people: key, type, value and meaning."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flow_apps.config.codec import to_json

_NAMES = {int: "integer", float: "number", bool: "true or false", str: "text", NoneType: "none"}
_ENTRY = re.compile(r"^(\w+): (.*)$")


@dataclass(frozen=True)
class FieldDescription:
    """One field.

    Attributes:
        key: Its dotted key.
        kind: What it can be.
        value: What it is, as the command line writes it.
        meaning: What its config says about it.
    """

    key: str
    kind: str
    value: str
    meaning: str


def describe(config: object, where: str = "") -> Iterator[FieldDescription]:
    """The fields of a config and of the configs in it, in their order."""
    kind = type(config)
    hints, meanings, values = get_type_hints(kind), _meanings(kind), to_json(config)
    for field in fields(kind):  # type: ignore[arg-type] # `to_json` has refused what is no dataclass
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from describe(value, f"{where}{field.name}.")
        else:
            shown = _shown(values[field.name])
            meaning = meanings.get(field.name, "")
            yield FieldDescription(f"{where}{field.name}", named(hints[field.name]), shown, meaning)


def named(kind: Any) -> str:  # noqa: ANN401 (a type expression)
    """A type in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(named(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        inner = [named(argument) for argument in arguments if argument is not Ellipsis]
        return f"list of {', '.join(inner)}"
    if origin is Mapping:
        return "options by name"
    if is_dataclass(kind):
        return "options by name"
    return _NAMES.get(kind, str(kind))


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace("null", "none")


def _meanings(kind: type[Any]) -> dict[str, str]:
    """The entries of the section `Attributes` of a docstring."""
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(section).splitlines():
        if entry := _ENTRY.match(line):
            name, found[entry[1]] = entry[1], entry[2]
        elif name and line.startswith(" "):
            found[name] += f" {line.strip()}"
        elif line:
            break
    return found
