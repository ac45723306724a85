"""Single fields of a config set from the command line.

A key is a path like `training.batch_size`, or only the end of one where that is unique and no
whole path: `width` is the field of the config itself, though one in it has a `width` too.
"""

import json
from collections.abc import Mapping, Sequence
from typing import cast

from flow_apps.config.checks import suggestion
from flow_apps.config.codec import Config, from_json, to_json
from flow_apps.config.neighbours import move_with_neighbours, require_effect
from flow_apps.errors import ConfigError

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def apply_overrides(config: Config, overrides: Mapping[str, object]) -> Config:
    """A copy of a config with some fields replaced.

    Fields that nobody set move along with a neighbour that was set, see `neighbours`.

    Raises:
        ConfigError: If a key is unknown (similar ones are suggested), if it could mean several
            fields, if a value has the wrong type, or if it has no effect beside the others.
    """
    values = to_json(config)
    paths = _paths(values)
    given, changed = set[str](), set[str]()
    for key, value in overrides.items():
        *parents, name = _resolve(key, paths)
        target = values
        for parent in parents:
            target = target[parent]
        key_in_full = ".".join([*parents, name])
        given.add(key_in_full)
        if target[name] != value:
            changed.add(key_in_full)
        target[name] = value
    move_with_neighbours(type(config), values, given, changed)
    made = from_json(type(config), values)
    require_effect(type(config), to_json(made), given)
    return made


def parse_assignments(assignments: Sequence[str]) -> dict[str, object]:
    """`key=value` texts as overrides; a value is JSON, a word or plain text.

    Raises:
        ConfigError: If a text has no `=`.
    """
    parsed: dict[str, object] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"expected key=value, got {assignment!r}")
        parsed[key.strip()] = _parse(text.strip())
    return parsed


def differences(first: object, second: object) -> dict[str, tuple[object, object]]:
    """The dotted keys in which two configs of one kind differ, with both values."""
    old, new = flat(to_json(first)), flat(to_json(second))
    return {key: (old.get(key), new.get(key)) for key in new if old.get(key) != new.get(key)}


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """The fields of a config and of the configs in it by dotted key."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and key != "options":
            found |= flat(cast(Mapping[str, object], value), f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _parse(text: str) -> object:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _paths(values: Mapping[str, object]) -> dict[str, list[tuple[str, ...]]]:
    """Every way to write a key, with the fields that it may mean."""
    paths: dict[str, list[tuple[str, ...]]] = {}
    for dotted in flat(values):
        path = tuple(dotted.split("."))
        for start in range(len(path)):
            paths.setdefault(".".join(path[start:]), []).append(path)
    return paths


def _resolve(key: str, paths: Mapping[str, list[tuple[str, ...]]]) -> tuple[str, ...]:
    found = paths.get(key, [])
    if not found:
        known = sorted({path[-1] for found in paths.values() for path in found})
        hint = suggestion(key, list(paths)) or f"; known: {', '.join(known)}"
        raise ConfigError(f"unknown config key {key!r}{hint}")
    whole = tuple(key.split("."))
    if whole in found:
        return whole
    if len(found) > 1:
        options = ", ".join(".".join(path) for path in found)
        raise ConfigError(f"{key} could mean {options}; write one of these")
    return found[0]
