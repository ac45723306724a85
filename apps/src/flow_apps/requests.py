"""What a user asks for when training: a new run, or to go on with one; nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_apps.config import apply_overrides, from_json
from flow_apps.config.run import RunConfig
from flow_apps.errors import ConfigError
from flow_apps.identity import allowed_changes
from flow_apps.registry import Experiment, Preset
from flow_apps.run_description import read_description

Changes = Mapping[str, tuple[object, object]]


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    Attributes:
        experiment: The experiment.
        preset: A preset of it.
        config: The config: of the preset, or of the run that is resumed, with what was changed.
        changes: What a resumed run is told anew.
        folder: The run folder.
        resume: Whether to go on with a run that exists.
        command: The command line, for config.json.
    """

    experiment: Experiment[Any]
    preset: Preset[Any]
    config: RunConfig
    changes: Changes
    folder: Path
    resume: bool
    command: tuple[str, ...]


def new_request(
    experiment: Experiment[Any],
    preset: str | None,
    overrides: Mapping[str, object],
    out: Path | None,
    command: tuple[str, ...],
) -> Request:
    """A request for a new run.

    Raises:
        ConfigError: If there is no such preset, or a value cannot be used.
    """
    if out is not None and str(out) == ".":
        raise ConfigError("out: expected a new folder, got the present one")
    chosen = experiment.preset(preset)
    config = apply_overrides(chosen.config, overrides)
    folder = out or Path("runs") / chosen.name
    return Request(experiment, chosen, config, {}, folder, False, command)


def resume_request(
    experiment: Experiment[Any],
    preset: str | None,
    overrides: Mapping[str, object],
    out: Path | None,
    command: tuple[str, ...],
) -> Request:
    """A request to go on with a run.

    Raises:
        RunFolderError: If there is no such run.
        ConfigError: If the run is another experiment, or a change would make it another run.
    """
    path = out or Path("runs") / experiment.preset(preset).name
    description = read_description(path)
    stored, name = description["experiment"], description.get("preset")
    if stored != experiment.name:
        raise ConfigError(f"{path} is a run of {stored}, not of {experiment.name}")
    if preset not in (None, name):
        raise ConfigError(f"{path} is a run of {name}, not of {preset}")
    before = from_json(experiment.config, description["config"])
    config = apply_overrides(before, overrides)
    changes = allowed_changes(experiment, before, config, path)
    return Request(experiment, experiment.preset(name), config, changes, path, True, command)
