"""The commands.

Everything heavy is imported by the command that needs it, so that `--help` is quick.
"""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flow_apps.errors import AppError

INTERRUPTED = 130

app = typer.Typer(
    help="Train, test and sample flows that are defined by fixed points.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class CheckpointChoice(StrEnum):
    """Which weights of a run."""

    LAST = "last"
    BEST = "best"


PresetArgument = Annotated[
    str | None, typer.Argument(help="A name from the command `presets`; a default without it.")
]
RunArgument = Annotated[Path, typer.Argument(help="The run folder.")]
Iterations = Annotated[int | None, typer.Option(help="Optimizer steps.")]
BatchSize = Annotated[int | None, typer.Option(help="Samples a step.")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Learning rate.")]
Seed = Annotated[int | None, typer.Option(help="Everything random follows from it.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; runs/PRESET without it.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")]
LogEvery = Annotated[int | None, typer.Option(help="Steps between lines of metrics.jsonl.")]
DataRoot = Annotated[str | None, typer.Option(help="Folder of the data, as torchvision lays it.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the config."),
]
Checkpoint = Annotated[CheckpointChoice, typer.Option(help="Last or best weights.")]


@contextmanager
def one_line_errors() -> Generator[None, None, None]:
    """Show a problem that the user can act on as one line, and exit with 1.

    With FLOW_TRACEBACK in the environment the traceback comes through.
    """
    try:
        yield
    except (AppError, ValueError, OSError, MemoryError, RuntimeError) as error:
        if "FLOW_TRACEBACK" in os.environ or not _is_actionable(error):
            raise
        message = " ".join(str(error).split())
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(1) from None


def _is_actionable(error: Exception) -> bool:
    """Whether a user can do something: of torch's own errors only about a lack of memory."""
    return not isinstance(error, RuntimeError) or "memory" in str(error)


def _train(
    experiment: str, preset: str | None, out: Path | None, *, resume: bool, **changes: object
) -> None:
    """Collect what was given, and train."""
    with one_line_errors():
        from flow_apps.running import Request, train  # noqa: PLC0415 (imports torch)
        from flow_apps.training import parse_assignments  # noqa: PLC0415

        assignments = changes.pop("assignments")
        overrides = {key: value for key, value in changes.items() if value is not None}
        overrides |= parse_assignments(assignments if isinstance(assignments, list) else [])
        request = Request(experiment, preset, overrides, out, resume, tuple(sys.argv))
        finished = train(request)
    if not finished:
        raise typer.Exit(INTERRUPTED)


def _training_command(experiment: str, summary: str) -> Callable[..., None]:
    """One command per experiment; the options are the same."""

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
        assignments: Assignments = None,
    ) -> None:
        _train(
            experiment,
            preset,
            out,
            resume=resume,
            iterations=iterations,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            device=device,
            data_root=data_root,
            log_every=log_every,
            assignments=assignments,
        )

    app.command(experiment, help=summary)(command)
    return command


fit1d = _training_command("fit1d", "Fit a one-dimensional function.")
toy2d = _training_command("toy2d", "Learn a two-dimensional density.")
image = _training_command("image", "Learn small images: digits or MNIST.")
glow = _training_command("glow", "Learn images by invertible convolutions and couplings.")


@app.command()
def presets() -> None:
    """List the presets and the published command that each one stands for."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from flow_apps.presets import PRESETS  # noqa: PLC0415 (imports torch)

    table = Table("preset", "command", "stands for", box=None)
    for preset in PRESETS.values():
        table.add_row(preset.name, preset.experiment, preset.published)
    Console().print(table)


@app.command()
def evaluate(
    run_folder: RunArgument,
    checkpoint: Checkpoint = CheckpointChoice.LAST,
    device: Device = None,
    data_root: DataRoot = None,
) -> None:
    """Test a trained run: likelihood with standard error, every sample's, diagnostics."""
    with one_line_errors():
        from flow_apps import evaluating  # noqa: PLC0415 (imports torch)

        results, diagnostics = evaluating.evaluate(
            run_folder, checkpoint=checkpoint.value, device=device or "cpu", data_root=data_root
        )
    for name, value in results.items():
        typer.echo(f"{name}: {value}")
    typer.echo(str(diagnostics))


@app.command()
def sample(  # noqa: PLR0917 (typer passes options by name)
    run_folder: RunArgument,
    count: Annotated[int, typer.Option(help="Number of samples.")] = 64,
    temperature: Annotated[float, typer.Option(help="Below 1: more typical samples.")] = 1.0,
    budget: Annotated[
        int | None, typer.Option(help="Largest number of evaluations of a solve.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    checkpoint: Checkpoint = CheckpointChoice.LAST,
    device: Device = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder; RUN_FOLDER/samples without it.")] = None,
) -> None:
    """Draw samples of a trained run into a PNG and a npy file."""
    with one_line_errors():
        from flow_apps import sampling  # noqa: PLC0415 (imports torch)

        request = sampling.SampleRequest(
            count, temperature, budget, seed, checkpoint.value, device or "cpu", data_root, out
        )
        files, missed, broken = sampling.sample(run_folder, request)
    for file in files:
        typer.echo(str(file))
    if missed:
        typer.echo(f"{missed} solves of single samples missed their tolerance", err=True)
    if broken:
        typer.echo(f"{broken} samples are not finite: the flow does not reach them", err=True)
