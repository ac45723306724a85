"""A trained model from its run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flow_apps.errors import ConfigError
from flow_apps.experiments import EXPERIMENTS, ExperimentConfig, InvertibleObjective
from flow_apps.training import (
    RunFolder,
    find_device,
    from_json,
    load_checkpoint,
    load_tested_weights,
    repair_and_say,
)
from flow_apps.training.overrides import apply_overrides
from flow_apps.training.progress import say

Choice = Literal["last", "best"]


@dataclass(frozen=True)
class LoadedRun:
    """A run and its model, ready for tests.

    Attributes:
        folder: The run folder.
        config: Its config.
        objective: The objective with the weights that were tested.
        step: The step of these weights.
        repaired: Maps that had to be scaled down, with the certified bounds that they had.
    """

    folder: RunFolder
    config: ExperimentConfig
    objective: InvertibleObjective
    step: int
    repaired: dict[str, float]


def load_run(
    path: Path, *, checkpoint: Choice = "last", device: str = "cpu", data_root: str | None = None
) -> LoadedRun:
    """Load the last or the best weights of a run.

    Args:
        path: The run folder.
        checkpoint: The last weights, or the best on validation.
        device: Where to put the model.
        data_root: Where the data are now; None for where they were.

    Raises:
        RunFolderError: If there is no such run.
        CheckpointError: If the checkpoint is missing or damaged.
        DataError: If the data are missing or damaged.
    """
    folder, place = RunFolder.open(path), find_device(device)
    description = folder.description()
    name = description["experiment"]
    if name not in EXPERIMENTS:
        raise ConfigError(f"{folder.config_path} names an unknown experiment {name!r}")
    experiment = EXPERIMENTS[name]
    config = from_json(experiment.config, description["config"])
    if data_root is not None:
        config = apply_overrides(config, {"data_root": data_root})
    checkpoints = folder.checkpoints
    best = checkpoint == "best"
    state = load_checkpoint(checkpoints.best, place) if best else checkpoints.newest(place)
    objective = experiment.objective(config).to(place)
    load_tested_weights(objective, state)
    repaired = repair_and_say(objective, visible=True)
    step, whole = int(state["step"]), config.training.iterations
    if not folder.finished:
        say(f"{folder.path} is not finished: these are the weights of step {step} of {whole}")
    return LoadedRun(folder, config, objective, step, repaired)
