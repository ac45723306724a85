"""From a command to a trained run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from flow_apps.errors import ConfigError, RunFolderError
from flow_apps.experiments import EXPERIMENTS, Experiment, ExperimentConfig, InvertibleObjective
from flow_apps.figures import draw_learning_curve
from flow_apps.presets import DEFAULTS, PRESETS, Preset
from flow_apps.training import (
    Engine,
    Ranks,
    RunFolder,
    TrainingConfig,
    apply_overrides,
    differences,
    from_json,
    ranks,
    resume,
    to_json,
)
from flow_apps.training.metrics import require_trackers
from flow_apps.training.overrides import suggestion
from flow_apps.training.progress import say

# What may change when a run is resumed: nothing that changes the steps already done.
_CHANGEABLE = {
    "contraction.on_solver_failure",
    "images.data_root",
    "training.checkpoint_seconds",
    "training.device",
    "training.figures_every",
    "training.iterations",
    "training.log_every",
    "training.tracker_project",
    "training.trackers",
}


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    Attributes:
        experiment: Name of the experiment.
        preset: Name of a preset, or None for the default one.
        overrides: Config keys and their values.
        out: The run folder, or None for one named after the preset.
        resume: Whether to go on with a run that exists.
        command: The command line, for config.json.
    """

    experiment: str
    preset: str | None
    overrides: Mapping[str, object]
    out: Path | None
    resume: bool
    command: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        return self.out or Path("runs") / (self.preset or DEFAULTS[self.experiment])


def train(request: Request) -> bool:
    """Train what was asked for.

    Returns:
        Whether the run came to its end; False if it was stopped.

    Raises:
        AppError: If the request, the folder, the checkpoint or the training fails.
        DataError: If the data are missing or damaged.
    """
    preset = find_preset(request.experiment, request.preset)
    experiment = EXPERIMENTS[request.experiment]
    if request.resume:
        config = _stored_config(request, experiment)
    else:
        config = apply_overrides(preset.config, request.overrides)
    require_trackers(config.training)
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    with ranks(config.training.device) as here:
        return _train(request, preset, experiment, config, here)


def find_preset(experiment: str, name: str | None) -> Preset:
    """The preset of that name, or the default one.

    Raises:
        ConfigError: If there is none for this experiment; similar names are suggested.
    """
    name = name or DEFAULTS[experiment]
    known = [preset.name for preset in PRESETS.values() if preset.experiment == experiment]
    if name in known:
        return PRESETS[name]
    if name in PRESETS:
        other = PRESETS[name].experiment
        raise ConfigError(f"preset {name} belongs to the command {other}, not to {experiment}")
    hint = suggestion(name, known) or f"; known: {', '.join(known)}"
    raise ConfigError(f"unknown preset {name!r} of {experiment}{hint}")


def _train(
    request: Request, preset: Preset, experiment: Experiment, config: ExperimentConfig, here: Ranks
) -> bool:
    objective = build_objective(experiment, config)
    folder = _prepared_folder(request, preset, config, here)
    engine = Engine(objective, config.training, folder, here)
    if request.resume:
        if folder.finished and _newest_step(folder) >= config.training.iterations:
            say(f"{folder.path} is finished already; nothing to do", visible=here.is_first)
            return True
        resume(engine)
        _require_steps_ahead(engine)
        _describe(folder, request, preset, config, here)
    finished = engine.run()
    if here.is_first:
        draw_learning_curve(folder.metrics_path, folder.figures / "learning_curve.png")
        _tell(folder, engine, finished=finished)
    return finished


def _require_steps_ahead(engine: Engine) -> None:
    """Refuse a length that the run has passed, before its config says so.

    Raises:
        ConfigError: If there are fewer iterations than steps done.
    """
    done, wanted = engine.state.step, engine.config.iterations
    if done > wanted:
        raise ConfigError(
            f"iterations: {done} steps are done already, the run cannot end at {wanted}"
        )


def build_objective(experiment: Experiment, config: ExperimentConfig) -> InvertibleObjective:
    """The objective of a config, with its data.

    Raises:
        ConfigError: If the model cannot be built from these values.
        DataError: If the data are missing or damaged.
    """
    return experiment.objective(config)


def _prepared_folder(
    request: Request, preset: Preset, config: ExperimentConfig, here: Ranks
) -> RunFolder:
    """The run folder, made by the first process; if it cannot, all of them end.

    Raises:
        RunFolderError: If the folder is taken, cannot be made, or holds no run.
    """
    failure: RunFolderError | None = None
    if here.is_first and not request.resume:
        try:
            RunFolder.create(request.folder, _description(preset, config), request.command)
        except RunFolderError as error:
            failure = error
    (failed,) = here.any(failure is not None)
    if failed:
        raise failure or RunFolderError(f"the first process could not create {request.folder}")
    return RunFolder.open(request.folder)


def _describe(
    folder: RunFolder, request: Request, preset: Preset, config: ExperimentConfig, here: Ranks
) -> None:
    """Bring config.json up to date with what a resumed run was told."""
    if here.is_first:
        description = folder.description() | {"config": to_json(config)}
        folder.describe(description, request.command)


def _description(preset: Preset, config: ExperimentConfig) -> dict[str, object]:
    return {"experiment": preset.experiment, "preset": preset.name, "config": to_json(config)}


def _stored_config(request: Request, experiment: Experiment) -> ExperimentConfig:
    """The config of a run with what may be changed changed.

    Raises:
        ConfigError: If the run is another experiment, or a change would falsify it.
    """
    path = request.folder
    description = RunFolder.open(path).description()
    if description["experiment"] != experiment.name:
        stored = description["experiment"]
        raise ConfigError(f"{path} is a run of {stored}, not of {experiment.name}")
    if request.preset not in (None, description.get("preset")):
        stored = description.get("preset")
        raise ConfigError(f"{path} is a run of {stored}, not of {request.preset}")
    stored_config = from_json(experiment.config, description["config"])
    config = apply_overrides(stored_config, request.overrides)
    for key, (old, new) in differences(stored_config, config).items():
        # Milestones are fractions of the length: another one would change the steps already done.
        moves = key == "training.iterations" and stored_config.training.milestones
        if moves or key not in _CHANGEABLE:
            raise ConfigError(
                f"{key} is {old} in {path} and cannot become {new} by --resume; start a new run"
            )
    return config


def _newest_step(folder: RunFolder) -> int:
    return max(folder.checkpoints.steps(), default=-1)


def _tell(folder: RunFolder, engine: Engine, *, finished: bool) -> None:
    config: TrainingConfig = engine.config
    if finished:
        say(f"finished after {config.iterations} steps; results in {folder.summary_path}")
    else:
        say(f"stopped after step {engine.state.step}; go on with --resume --out {folder.path}")
