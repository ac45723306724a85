"""A trained model from its run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from flow_core.dequantization import Dequantized
from flow_core.distributions import Flow
from flow_core.models import HybridModel, LabelledFlow
from torch import nn

from flow_apps.config import from_json
from flow_apps.config.run import RunConfig
from flow_apps.errors import ConfigError
from flow_apps.experiments import find_experiment
from flow_apps.identity import fingerprint
from flow_apps.importing import is_imported, load_imported
from flow_apps.registry import Experiment
from flow_apps.training import (
    Builders,
    Display,
    RunFolder,
    certify_and_say,
    find_device,
    load_checkpoint,
    load_model,
    require_state,
)

Choice = Literal["last", "best"]


@dataclass(frozen=True)
class LoadedRun:
    """A run and its model, with the weights that were tested.

    Attributes:
        folder: The run folder.
        experiment: What it is a run of.
        builders: How that is made.
        config: Its config.
        model: The model, in evaluation mode.
        source: The checkpoint.
        step: The step of these weights.
        repaired: Maps that had to be scaled down, with the certified bounds that they had.
    """

    folder: RunFolder
    experiment: Experiment[Any]
    builders: Builders[Any, Any]
    config: RunConfig
    model: nn.Module
    source: Path
    step: int
    repaired: dict[str, float]

    def distribution(self) -> Flow | Dequantized | None:
        """The model, or what of it is a distribution; None where nothing is."""
        parts = isinstance(self.model, HybridModel | LabelledFlow)
        model = self.model.density if parts else self.model
        return model if isinstance(model, Flow | Dequantized) else None

    def say_if_unfinished(self, display: Display) -> None:
        """Tell what these weights are worth, where that could be mistaken."""
        whole = self.config.training.iterations
        if self.folder.finished:
            return
        if self.step == whole:
            display.say(f"{self.folder.path}: only its final test is missing; --resume makes it")
        else:
            display.say(
                f"{self.folder.path} is not finished: these are the weights of step {self.step} "
                f"of {whole}"
            )


def load_run(path: Path, *, checkpoint: Choice = "last", device: str = "cpu") -> LoadedRun:
    """Load the last or the best weights of a run; its data are not needed.

    Args:
        path: The run folder.
        checkpoint: The last weights, or the best on validation; a run that chooses none has its
            last ones for both.
        device: Where to put the model.

    Raises:
        RunFolderError: If there is no such run.
        ConfigError: If its config is not one of this program.
        CheckpointError: If the checkpoint is missing, damaged, or of another run.
    """
    if checkpoint not in get_args(Choice):
        raise ConfigError(f"checkpoint: expected last or best, got {checkpoint!r}")
    folder, place = RunFolder.open(path), find_device(device)
    description = folder.description()
    experiment = find_experiment(description["experiment"])
    config = from_json(experiment.config, description["config"])
    checkpoints = folder.checkpoints
    best = checkpoint == "best" and checkpoints.best.exists()
    source = checkpoints.best if best else checkpoints.newest()
    state = load_checkpoint(source, place)
    require_state(state, source, fingerprint(experiment, description["config"]))
    builders = experiment.load()
    model = builders.model(config).to(place)
    load_model(model, state, source)
    upkeep, step = builders.upkeep(config, model.eval()), int(state["step"])
    upkeep.prepare_test()
    repaired = dict(certify_and_say(upkeep, Display()).repaired)
    return LoadedRun(folder, experiment, builders, config, model, source, step, repaired)


def load_flow(
    path: Path, *, checkpoint: Choice = "best", device: str = "cpu"
) -> Flow | Dequantized:
    """See `flow_apps.load_flow`."""
    if is_imported(path):
        return load_imported(path, device)
    run = load_run(path, checkpoint=checkpoint, device=device)
    distribution = run.distribution()
    if distribution is None:
        kind = type(run.model).__name__
        raise ConfigError(
            f"{path} is a run of {run.experiment.name}, whose model is a {kind} and no flow; "
            "flow_apps.load_model loads it"
        )
    return distribution
