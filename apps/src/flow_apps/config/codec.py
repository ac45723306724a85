"""Configs as JSON values and back.

A config is a frozen dataclass whose fields are numbers, strings, tuples, options by name, or such
dataclasses.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from flow_apps.config.checks import suggestion
from flow_apps.errors import ConfigError

Config = TypeVar("Config")

# Integers that JSON keeps whatever reads it.
_BITS = 53


def to_json(config: object) -> dict[str, Any]:
    """A config as JSON values."""
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"expected a config dataclass, got {type(config).__name__}")
    return {field.name: _encode(getattr(config, field.name)) for field in fields(config)}


def from_json(kind: type[Config], values: object, where: str = "") -> Config:
    """A config from JSON values; every value is checked against its field.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type; it names the key.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where.rstrip('.') or 'config'}: expected an object, got {_shown(values)}"
        )
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise ConfigError(_unknown(f"{where}{key}", [f"{where}{name}" for name in hints]))
    decoded = {key: _decode(hints[key], value, f"{where}{key}") for key, value in values.items()}
    return kind(**decoded)


def _encode(value: object) -> object:
    if is_dataclass(value):
        return to_json(value)
    if isinstance(value, tuple):
        return [_encode(item) for item in cast(tuple[object, ...], value)]
    if isinstance(value, Mapping):
        return {name: _encode(item) for name, item in cast(Mapping[str, object], value).items()}
    return value


def _decode(kind: Any, value: object, key: str) -> object:  # noqa: ANN401 (a type expression)
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return from_json(kind, value, f"{key}.")
    if origin in (Union, UnionType):
        return _decode_optional(arguments, value, key)
    if origin is Literal:
        return _decode_choice(arguments, value, key)
    if origin is tuple:
        return _decode_tuple(arguments, value, key)
    if origin is Mapping:
        return _decode_options(value, key)
    return _decode_scalar(kind, value, key)


def _decode_optional(arguments: tuple[Any, ...], value: object, key: str) -> object:
    if value is None and type(None) in arguments:
        return None
    (kind,) = (argument for argument in arguments if argument is not type(None))
    return _decode(kind, value, key)


def _decode_choice(choices: tuple[Any, ...], value: object, key: str) -> object:
    if value is None and "none" in choices:  # on the command line both are written none
        return "none"
    if value not in choices:
        names = [str(choice) for choice in choices]
        hint = suggestion(str(value), names)
        raise ConfigError(f"{key}: expected one of {', '.join(names)}, got {_shown(value)}{hint}")
    return value


def _decode_tuple(arguments: tuple[Any, ...], value: object, key: str) -> tuple[object, ...]:
    items = [value] if isinstance(value, str | int | float) else value
    if not isinstance(items, Sequence):
        raise ConfigError(f"{key}: expected a list, got {_shown(value)}")
    open_ended = arguments[-1] is Ellipsis
    kinds = [arguments[0]] * len(items) if open_ended else list(arguments)
    if len(kinds) != len(items):
        raise ConfigError(f"{key}: expected a list of {len(kinds)} values, got {_shown(value)}")
    return tuple(_decode(kind, item, key) for kind, item in zip(kinds, items, strict=True))


def _decode_options(value: object, key: str) -> dict[str, object]:
    """Options by name; whoever takes them knows which there are."""
    if not isinstance(value, Mapping):
        raise ConfigError(f'{key}: expected options like {{"momentum": 0.9}}, got {_shown(value)}')
    options = cast(Mapping[str, object], value)
    return {str(name): _option(item, f"{key}.{name}") for name, item in options.items()}


def _option(value: object, key: str) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_option(item, key) for item in cast(Sequence[object], value))
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}: expected a finite number, got {_shown(value)}")
    return value


def _decode_scalar(kind: Any, value: object, key: str) -> object:  # noqa: ANN401
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str | int | float):
        return str(value)
    if kind is float and _is_number(value):
        return float(cast(str | float, value))
    if kind is int and _is_integral(value):
        return _integer(int(cast(float, value)), key)
    raise ConfigError(f"{key}: expected {_name(kind)}, got {_shown(value)}")


def _integer(value: int, key: str) -> int:
    if abs(value) >= 1 << _BITS:
        raise ConfigError(
            f"{key}: expected an integer of at most {_BITS} bits, got one of {value.bit_length()}"
        )
    return value


def _is_number(value: object) -> bool:
    """Whether it is a finite number, or a text that is one: JSON has no .5."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def _is_integral(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )


def _name(kind: Any) -> str:  # noqa: ANN401
    names = {
        int: "an integer",
        float: "a finite number",
        bool: "true or false",
        str: "a text",
    }
    return names.get(kind, str(kind))


def _shown(value: object) -> str:
    return json.dumps(value, default=str)


def _unknown(key: str, known: Sequence[str]) -> str:
    hint = suggestion(key, known)
    return f"unknown config key {key!r}{hint or '; known: ' + ', '.join(sorted(known))}"
