"""What can be done with a run: test it, and sample it."""

from pathlib import Path
from typing import Annotated

import typer

from flow_apps.cli.common import (
    Checkpoint,
    CheckpointChoice,
    DataRoot,
    Device,
    RunArgument,
    shown_to_people,
)


def evaluate(
    run_folder: RunArgument,
    checkpoint: Checkpoint = CheckpointChoice.LAST,
    device: Device = None,
    data_root: DataRoot = None,
) -> None:
    """Test a trained run: its figure of merit with standard error, every sample's, diagnostics."""
    with shown_to_people():
        from flow_apps import evaluating  # noqa: PLC0415 (imports torch)

        found = evaluating.evaluate(
            run_folder, checkpoint=checkpoint.value, device=device or "cpu", data_root=data_root
        )
    if not found.first:
        return
    for name, value in found.results.items():
        typer.echo(f"{name}: {value}")
    if found.diagnostics is not None:
        typer.echo(str(found.diagnostics))


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
    out: Annotated[Path | None, typer.Option(help="Folder; RUN_FOLDER/samples without it.")] = None,
) -> None:
    """Draw samples of a trained run into a PNG and a npy file; its data are not needed."""
    with shown_to_people():
        from flow_apps import sampling  # noqa: PLC0415 (imports torch)

        request = sampling.SampleRequest(
            count, temperature, budget, seed, checkpoint.value, device or "cpu", out
        )
        drawn = sampling.sample(run_folder, request)
    for file in drawn.files:
        typer.echo(str(file))
    if drawn.missed:
        typer.echo(f"{drawn.missed} solves of single samples missed their tolerance", err=True)
    if drawn.broken:
        reasons = drawn.reasons or "the base distribution"
        typer.echo(f"{drawn.broken} samples are not finite: {reasons}", err=True)
