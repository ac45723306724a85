"""Fields that have a meaning beside some values of other fields only."""

from collections.abc import Container, Iterator, Mapping, Set
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, Final, TypeAlias, cast

from flow_apps.errors import ConfigError

_RULES = "only_with"
_UNUSED = "without_effect"

AS_IT_IS: Final = "as it is"
"""Instead of a value: a field without effect keeps the one that it has."""

Neighbour: TypeAlias = tuple[str, Container[object]]
"""Another field of the same config, or the dotted key of one of another config, and its choices."""


@dataclass(frozen=True)
class OtherThan:
    """Every value but one, as the choices of a neighbour."""

    value: object

    def __contains__(self, value: object) -> bool:
        """Whether it is another one."""
        return value != self.value


@dataclass(frozen=True)
class AnyOf:
    """Neighbours of which one must have a value among its choices."""

    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class OnlyWith:
    """What a field becomes beside other values of its neighbours.

    Attributes:
        neighbours: One of them must have a value among its choices for the field to have an effect.
        otherwise: What the field is beside all others.
        refuses: Whether it is refused there; else it only follows.
    """

    neighbours: tuple[Neighbour, ...]
    otherwise: object
    refuses: bool = True


def only_with(
    *neighbours: Neighbour | AnyOf, otherwise: object = AS_IT_IS
) -> dict[str, tuple[OnlyWith, ...]]:
    """Metadata of a field, or of a whole config in a field: all that it needs beside itself."""
    either = (n.neighbours if isinstance(n, AnyOf) else (n,) for n in neighbours)
    return {_RULES: tuple(OnlyWith(names, otherwise) for names in either)}


def any_of(*neighbours: Neighbour) -> AnyOf:
    """One of them is enough."""
    return AnyOf(neighbours)


def reset_with(neighbour: str, otherwise: object) -> dict[str, tuple[OnlyWith, ...]]:
    """Metadata of a field that belongs to one value of a neighbour, whatever it is."""
    return {_RULES: (OnlyWith(((neighbour, ()),), otherwise, refuses=False),)}


def without_effect(**reasons: str) -> dict[str, Mapping[str, str]]:
    """Metadata of a config in a field: which of its own fields nothing reads here, and why."""
    return {_UNUSED: reasons}


def move_with_neighbours(
    kind: type[Any], values: dict[str, Any], given: Set[str], changed: set[str]
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
            if rule.otherwise is AS_IT_IS or key in given or _holds(rule, where, values):
                continue
            moved = any(_key(name, where) in changed for name, _ in rule.neighbours)
            if moved and target[field.name] != rule.otherwise:
                target[field.name] = rule.otherwise
                changed.add(key)


def require_effect(kind: type[Any], values: dict[str, Any], given: Set[str]) -> None:
    """Refuse what was set by hand and has no effect.

    Configs that come from elsewhere may hold such values: presets that differ in one field share
    the others.

    Args:
        kind: The config dataclass.
        values: Its fields as JSON values.
        given: Dotted keys that were set by hand.

    Raises:
        ConfigError: Naming the key, and what it goes with.
    """
    for where, field, target in _fields(kind, values, ""):
        place = f"{where}{field.name}"
        keys = sorted(key for key in given if key == place or key.startswith(f"{place}."))
        for key in keys:
            reason = _reasons(field).get(key.removeprefix(f"{place}."))
            if reason is not None:
                raise ConfigError(f"{key}: has no effect here: {reason}")
        for rule in _rules(field):
            harmless = target[field.name] == rule.otherwise or not rule.refuses
            if keys and not harmless and not _holds(rule, where, values):
                raise ConfigError(f"{keys[0]}: {_told(rule, where, values)}")


def _holds(rule: OnlyWith, where: str, values: Mapping[str, Any]) -> bool:
    return any(_value(values, _key(name, where)) in allowed for name, allowed in rule.neighbours)


def _told(rule: OnlyWith, where: str, values: Mapping[str, Any]) -> str:
    """What is there, and what would have to be."""
    keys = [_key(name, where) for name, _ in rule.neighbours]
    found = " and ".join(f"{key}={_shown(_value(values, key))}" for key in keys)
    wanted = " or ".join(
        f"{key}{_choices(allowed)}" for key, (_, allowed) in zip(keys, rule.neighbours, strict=True)
    )
    return f"has no effect with {found}; it goes with {wanted}"


def _choices(allowed: Container[object]) -> str:
    if isinstance(allowed, OtherThan):
        return f" other than {_shown(allowed.value)}"
    return "=" + " or ".join(_shown(value) for value in cast(tuple[object, ...], allowed))


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _key(neighbour: str, where: str) -> str:
    return neighbour if "." in neighbour else f"{where}{neighbour}"


def _fields(
    kind: type[Any], values: dict[str, Any], where: str
) -> "Iterator[tuple[str, Field[Any], dict[str, Any]]]":
    """Every field of a config and of the configs in it: its place, itself, and what holds it."""
    for field in fields(kind):
        yield where, field, values
        if isinstance(field.type, type) and is_dataclass(field.type):
            yield from _fields(field.type, values[field.name], f"{where}{field.name}.")


def _value(values: Mapping[str, Any], key: str) -> object:
    for name in key.split("."):
        values = values[name]
    return values


def _rules(field: "Field[Any]") -> tuple[OnlyWith, ...]:
    metadata: Mapping[Any, Any] = field.metadata
    return cast(tuple[OnlyWith, ...], metadata.get(_RULES, ()))


def _reasons(field: "Field[Any]") -> Mapping[str, str]:
    metadata: Mapping[Any, Any] = field.metadata
    return cast(Mapping[str, str], metadata.get(_UNUSED, {}))
