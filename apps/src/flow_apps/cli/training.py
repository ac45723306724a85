"""The command of every experiment."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flow_apps.cli.common import INTERRUPTED, Assignments, DataRoot, Device, shown_to_people
from flow_apps.config import describe, parse_assignments
from flow_apps.experiments import EXPERIMENTS
from flow_apps.registry import Experiment

PresetArgument = Annotated[
    str | None, typer.Argument(help="A name from the command `presets`; a default without it.")
]
Iterations = Annotated[int | None, typer.Option(help="Optimizer steps.")]
BatchSize = Annotated[int | None, typer.Option(help="Samples a step.")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Learning rate.")]
Seed = Annotated[int | None, typer.Option(help="Everything random follows from it.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; runs/PRESET without it.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")]
LogEvery = Annotated[int | None, typer.Option(help="Steps between lines of metrics.jsonl.")]
SizeOfTest = Annotated[
    int | None,
    typer.Option("--test-size", help="At most so many samples in tests: few for a quick look."),
]
DrawsOfTest = Annotated[
    int | None,
    typer.Option("--test-draws", help="Images: draws of the noise in the final test."),
]


def new_app() -> typer.Typer:
    """The command line without its commands."""
    return typer.Typer(
        help="Train, test and sample flows that are defined by fixed points.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )


def add_training(app: typer.Typer) -> None:
    """Add a command for every experiment that is registered."""
    for experiment in EXPERIMENTS.values():
        _add(app, experiment)


def _add(app: typer.Typer, experiment: Experiment[Any]) -> None:
    def command(  # noqa: PLR0917 (typer passes options by name)
        preset: PresetArgument = None,
        iterations: Iterations = None,
        batch_size: BatchSize = None,
        learning_rate: LearningRate = None,
        seed: Seed = None,
        device: Device = None,
        out: Out = None,
        data_root: DataRoot = None,
        resume: Resume = False,
        log_every: LogEvery = None,
        test_size: SizeOfTest = None,
        test_draws: DrawsOfTest = None,
        assignments: Assignments = None,
    ) -> None:
        """Collect what was given, and train."""
        changes: dict[str, object] = {
            "training.iterations": iterations,
            "training.batch_size": batch_size,
            "training.optimizer.learning_rate": learning_rate,
            "training.seed": seed,
            "training.device": device,
            "data_root": data_root,
            "training.log_every": log_every,
            "test_size": test_size,
            "test_draws": test_draws,
        }
        given = {key: value for key, value in changes.items() if value is not None}
        _require_options(experiment, given)
        _train(experiment, preset, out, given, assignments or [], resume=resume)

    app.command(experiment.name, help=_help(experiment))(command)


def _require_options(experiment: Experiment[Any], given: dict[str, object]) -> None:
    """Refuse options that are for other experiments."""
    keys = [line.key for line in describe(experiment.presets[0].config)]
    for name in given:
        if not any(key == name or key.endswith(f".{name}") for key in keys):
            option = name.replace("_", "-")
            raise typer.BadParameter(f"{experiment.name} has no {name}", param_hint=f"--{option}")


def _help(experiment: Experiment[Any]) -> str:
    """What an experiment is, and of images which there are."""
    summary = experiment.summary.rstrip(".")
    default = experiment.presets[0].config
    for line in describe(default):
        if line.key == "images.data":
            return f"{summary}: {line.kind.removeprefix('one of ')}."
    return f"{summary}."


def _train(
    experiment: Experiment[Any],
    preset: str | None,
    out: Path | None,
    given: dict[str, object],
    assignments: list[str],
    *,
    resume: bool,
) -> None:
    with shown_to_people():
        # Names and values are looked at before torch is imported, which takes seconds.
        overrides = given | parse_assignments(assignments)
        command = tuple(sys.argv)
        from flow_apps.requests import new_request, resume_request  # noqa: PLC0415

        make = resume_request if resume else new_request
        request = make(experiment, preset, overrides, out, command)
        if os.environ.get("RANK", "0") == "0":
            typer.echo(f"{experiment.name} {request.preset.name}: importing torch", err=True)
        from flow_apps.running import train  # noqa: PLC0415 (imports torch)

        finished = train(request)
    if not finished:
        raise typer.Exit(INTERRUPTED)
