"""What a preset is."""

from dataclasses import dataclass

from flow_apps.experiments import ExperimentConfig


@dataclass(frozen=True)
class Preset:
    """A config with a name.

    Attributes:
        name: What the user types.
        experiment: Command that it belongs to.
        config: The config.
        published: Command of the authors' code that it stands for, or what it is.
    """

    name: str
    experiment: str
    config: ExperimentConfig
    published: str
