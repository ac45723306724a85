"""What every config of an experiment has."""

from typing import Protocol, TypeVar, runtime_checkable

from flow_apps.config.training import TrainingConfig


@runtime_checkable
class RunConfig(Protocol):
    """A frozen dataclass, the config of an experiment."""

    @property
    def training(self) -> TrainingConfig:
        """Length, optimizers and reporting of the run."""
        ...


ConfigOfRun = TypeVar("ConfigOfRun", bound=RunConfig)
