"""From a command to a trained run."""

from contextlib import ExitStack

import torch

from flow_apps.config import to_json
from flow_apps.config.run import RunConfig
from flow_apps.errors import ConfigError, RunFolderError
from flow_apps.figures.learning import draw_learning_curve
from flow_apps.identity import fingerprint
from flow_apps.requests import Request
from flow_apps.training import Display, Engine, Ranks, RunFolder, ranks, resume
from flow_apps.training.compilation import compiled_sizes, private_cache
from flow_apps.training.lock import locked
from flow_apps.training.metrics import require_trackers
from flow_apps.training.optimizers import require_optimizers


def train(request: Request) -> bool:
    """Train what was asked for.

    Returns:
        Whether the run came to its end; False if it was stopped.

    Raises:
        AppError: If the request, the folder, the checkpoint or the training fails.
        DataError: If the data are missing or damaged.
    """
    training = request.config.training
    require_trackers(training)
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    with ranks(training.device) as here:
        display = Display(visible=here.is_first)
        with display.phase("loading"):
            builders = request.experiment.load()
            config = builders.resolve(request.config)
            here.share(training.batch_size // training.accumulate)
            model = builders.model(config).to(here.device)
            sizes = compiled_sizes(training, here, display)
            parts = builders.parts(config, model, sizes)
            require_optimizers(parts.loss, training.optimizers)
        with ExitStack() as stack:
            folder = _folder(request, config, here, stack)
            display.say(f"run folder: {folder.path}")
            identity = fingerprint(request.experiment, folder.description()["config"])
            if sizes:
                stack.enter_context(private_cache(folder.path, here.rank))
            engine = Engine(
                parts,
                training,
                folder,
                here,
                upkeep=builders.upkeep(config, model),
                fingerprint=identity,
                display=display,
            )
            return _run(request, engine)


def _run(request: Request, engine: Engine) -> bool:
    folder, here, say = engine.folder, engine.ranks, engine.display.say
    if request.resume:
        newest = max(folder.checkpoints.steps(), default=0)
        _require_steps_ahead(newest, engine.config.iterations)
        if folder.finished and newest == engine.config.iterations:
            unused = f" and {', '.join(request.changes)} is not changed" if request.changes else ""
            say(f"{folder.path} is finished already; nothing to do{unused}")
            return True
        resume(engine)
        if here.is_first:
            step = engine.state.step
            folder.record_changes(step, request.changes, request.command)
    finished = engine.run()
    if here.is_first:
        draw_learning_curve(folder.metrics_path, folder.figures / "learning_curve.png")
    if finished:
        say(f"finished after {engine.config.iterations} steps; results in {folder.summary_path}")
    else:
        say(f"stopped after step {engine.state.step}; go on with --resume --out {folder.path}")
    return finished


def _require_steps_ahead(done: int, wanted: int) -> None:
    """Refuse a length that the run has passed, before its config says so.

    Raises:
        ConfigError: If there are fewer iterations than steps done.
    """
    if done > wanted:
        raise ConfigError(
            f"iterations: {done} steps are done already, the run cannot end at {wanted}"
        )


def _folder(request: Request, config: RunConfig, here: Ranks, stack: ExitStack) -> RunFolder:
    """The run folder, locked and made by the first process; if it cannot, all of them end.

    Raises:
        RunFolderError: If the folder is taken, in use, cannot be made, or holds no run.
    """
    failure: RunFolderError | None = None
    if here.is_first:
        try:
            _prepare(request, config, stack)
        except RunFolderError as error:
            failure = error
    (failed,) = here.any(failure is not None)
    if failed:
        raise failure or RunFolderError(f"the first process could not use {request.folder}")
    return RunFolder.open(request.folder)


def _prepare(request: Request, config: RunConfig, stack: ExitStack) -> None:
    path = request.folder
    RunFolder.make_place(path)
    stack.enter_context(locked(path))
    if request.resume:
        RunFolder.open(path)
        return
    description = {
        "experiment": request.experiment.name,
        "preset": request.preset.name,
        "config": to_json(config),
    }
    RunFolder.create(path, description, request.command)
