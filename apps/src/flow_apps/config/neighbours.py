"""Fields that have a meaning beside some values of other fields only."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, cast

_KEY = "only_with"


@dataclass(frozen=True)
class OnlyWith:
    """What a field becomes beside other values of a neighbour.

    Attributes:
        neighbour: Another field of the same config, or the dotted key of one of another config.
        choices: Values of it beside which the field may be what it is.
        otherwise: What the field is beside all others.
    """

    neighbour: str
    choices: Sequence[object]
    otherwise: object


def only_with(
    *neighbours: tuple[str, Sequence[object]], otherwise: object
) -> dict[str, tuple[OnlyWith, ...]]:
    """Metadata of a field: pairs of a neighbour and its choices, see `OnlyWith`."""
    return {_KEY: tuple(OnlyWith(name, choices, otherwise) for name, choices in neighbours)}


def move_with_neighbours(
    kind: type[Any], values: dict[str, Any], given: set[str], changed: set[str]
) -> None:
    """Let fields follow a neighbour that was changed, where nobody set them.

    Args:
        kind: The config dataclass.
        values: Its fields as JSON values; changed in place.
        given: Dotted keys that were set by hand; they are left alone, so that the config itself can
            refuse what does not fit.
        changed: Those of them that have another value than before; fields that move are added.
    """
    # A field comes after its neighbours, so that one pass moves chains of them.
    for where, field, target in _fields(kind, values, ""):
        key = f"{where}{field.name}"
        for rule in _rules(field):
            near = rule.neighbour if "." in rule.neighbour else f"{where}{rule.neighbour}"
            moved = near in changed and _value(values, near) not in rule.choices
            if moved and key not in given and target[field.name] != rule.otherwise:
                target[field.name] = rule.otherwise
                changed.add(key)


def _fields(
    kind: type[Any], values: dict[str, Any], where: str
) -> "list[tuple[str, Field[Any], dict[str, Any]]]":
    """Every field of a config and of the configs in it: its place, itself, and what holds it."""
    found: list[tuple[str, Field[Any], dict[str, Any]]] = []
    for field in fields(kind):
        found.append((where, field, values))
        if isinstance(field.type, type) and is_dataclass(field.type):
            found += _fields(field.type, values[field.name], f"{where}{field.name}.")
    return found


def _value(values: Mapping[str, Any], key: str) -> object:
    for name in key.split("."):
        values = values[name]
    return values


def _rules(field: "Field[Any]") -> tuple[OnlyWith, ...]:
    metadata: Mapping[Any, Any] = field.metadata
    return cast(tuple[OnlyWith, ...], metadata.get(_KEY, ()))
