"""Experiments and presets by name; nothing here needs torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, cast

from flow_apps.config import suggestion
from flow_apps.config.run import ConfigOfRun
from flow_apps.errors import ConfigError

if TYPE_CHECKING:
    from flow_apps.training import Builders


@dataclass(frozen=True)
class Preset(Generic[ConfigOfRun]):
    """A config with a name.

    Attributes:
        name: What the user types.
        config: The config.
        summary: What it is, in half a line.
        published: Command or script of the authors that it stands for; empty where there is none.
    """

    name: str
    config: ConfigOfRun
    summary: str
    published: str = ""


@dataclass(frozen=True)
class Experiment(Generic[ConfigOfRun]):
    """A family of experiments, and all that commands need to know about it.

    Attributes:
        name: Its command.
        summary: The help of its command.
        config: Its config dataclass.
        presets: Named configs; the first is taken where none is named.
        builders: Where its `flow_apps.training.Builders` are, as `module:name`; imported when a
            model is needed.
        changeable: Dotted keys of its config that a resumed run may be told anew; a dot at the end
            means a whole section. Of `training` the common ones are known.
    """

    name: str
    summary: str
    config: type[Any]  # what the presets hold; checkers at run time cannot ask a class for that
    presets: tuple[Preset[ConfigOfRun], ...]
    builders: str
    changeable: tuple[str, ...] = ()

    def load(self) -> "Builders[ConfigOfRun, Any]":
        """What makes model, data, loss, tests and figures; this imports torch."""
        module, _, name = self.builders.partition(":")
        return cast("Builders[ConfigOfRun, Any]", getattr(import_module(module), name))

    def preset(self, name: str | None) -> Preset[ConfigOfRun]:
        """The preset of that name, or the default one.

        Raises:
            ConfigError: If there is none here; similar names are suggested.
        """
        if name is None:
            return self.presets[0]
        for preset in self.presets:
            if preset.name == name:
                return preset
        for other, preset in all_presets():
            if preset.name == name:
                raise ConfigError(
                    f"preset {name} belongs to the command {other.name}, not to {self.name}"
                )
        known = [preset.name for preset in self.presets]
        hint = suggestion(name, known) or f"; known: {', '.join(known)}"
        raise ConfigError(f"unknown preset {name!r} of {self.name}{hint}")


EXPERIMENTS: dict[str, Experiment[Any]] = {}
"""What is registered, by name."""


def register(experiment: Experiment[ConfigOfRun]) -> Experiment[ConfigOfRun]:
    """Make an experiment known to every command.

    Raises:
        ValueError: If its name or that of a preset is taken, or it has no preset.
    """
    taken = {preset.name for _, preset in all_presets()} | EXPERIMENTS.keys()
    names = [experiment.name, *(preset.name for preset in experiment.presets)]
    for name in names:
        if name in taken or names.count(name) > 1:
            raise ValueError(f"experiment {experiment.name}: the name {name} is taken")
    if not experiment.presets:
        raise ValueError(f"experiment {experiment.name}: expected at least one preset, got none")
    EXPERIMENTS[experiment.name] = experiment
    return experiment


def all_presets() -> Iterator[tuple[Experiment[Any], Preset[Any]]]:
    """Every preset with its experiment."""
    for experiment in EXPERIMENTS.values():
        for preset in experiment.presets:
            yield experiment, preset


def find_preset(name: str) -> tuple[Experiment[Any], Preset[Any]]:
    """The preset of that name, whatever it belongs to, or the default one of an experiment.

    Raises:
        ConfigError: If there is none; similar names are suggested.
    """
    known = {preset.name: (experiment, preset) for experiment, preset in all_presets()}
    known |= {
        experiment.name: (experiment, experiment.presets[0]) for experiment in EXPERIMENTS.values()
    }
    if name not in known:
        hint = suggestion(name, list(known)) or "; `presets` lists them"
        raise ConfigError(f"unknown preset {name!r}{hint}")
    return known[name]


def find_experiment(name: str) -> Experiment[Any]:
    """The experiment of that name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        raise ConfigError(
            f"unknown experiment {name!r}{suggestion(name, list(EXPERIMENTS))}; known: {known}"
        )
    return EXPERIMENTS[name]
