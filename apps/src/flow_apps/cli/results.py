"""What can be done with a run: test it, measure its inverse, and sample it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flow_apps.cli.common import (
    Checkpoint,
    CheckpointChoice,
    DataRoot,
    Device,
    RunArgument,
    shown_to_people,
)
from flow_apps.config import parse_assignments

ImagesOfImport = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Of an imported checkpoint: which images, data=NAME and what else is under images.",
    ),
]

if TYPE_CHECKING:
    from flow_apps.sampling import Sampled


def evaluate(
    run_folder: RunArgument,
    checkpoint: Checkpoint = CheckpointChoice.LAST,
    device: Device = None,
    data_root: DataRoot = None,
    assignments: ImagesOfImport = None,
) -> None:
    """Test a trained run: its figure of merit with standard error, every sample's, diagnostics.

    Also an imported checkpoint of images, on the set that has their size or another one.
    """
    with shown_to_people():
        from flow_apps import evaluating  # noqa: PLC0415 (imports torch)

        found = evaluating.evaluate(
            run_folder,
            checkpoint=checkpoint.value,
            device=device or "cpu",
            data_root=data_root,
            images=parse_assignments(assignments or []),
        )
    if not found.first:
        return
    for name, value in found.results.items():
        typer.echo(f"{name}: {value}")
    if found.diagnostics is not None:
        typer.echo(str(found.diagnostics))


def stability(  # noqa: PLR0917 (typer passes options by name)
    run_folder: RunArgument,
    samples: Annotated[int, typer.Option(help="Test points that go forth and back.")] = 64,
    jacobians: Annotated[
        int, typer.Option(help="How many of them have singular values; 0 for none.")
    ] = 1,
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="Another run, whose course is drawn too; as often as there are some."),
    ] = None,
    checkpoint: Checkpoint = CheckpointChoice.LAST,
    device: Device = None,
    data_root: DataRoot = None,
) -> None:
    """Measure how stable the inverse of a trained run is: round trips, singular values, bounds."""
    with shown_to_people():
        from flow_apps.stability import (  # noqa: PLC0415 (imports torch)
            StabilityRequest,
            measure_stability,
        )

        report = measure_stability(
            run_folder,
            StabilityRequest(
                checkpoint=checkpoint.value,
                device=device or "cpu",
                data_root=data_root,
                samples=samples,
                jacobians=jacobians,
                beside=beside or (),
            ),
        )
    typer.echo(str(report))


def sample(  # noqa: PLR0917 (typer passes options by name)
    run_folder: RunArgument,
    samples: Annotated[
        bool, typer.Option("--samples", help="Samples; also where no other sheet is asked for.")
    ] = False,
    real: Annotated[bool, typer.Option("--real", help="Test images.")] = False,
    reconstructions: Annotated[
        bool, typer.Option("--reconstructions", help="Test images above their reconstructions.")
    ] = False,
    interpolations: Annotated[
        bool,
        typer.Option("--interpolations", help="From one test image to another, a row each."),
    ] = False,
    side_by_side: Annotated[
        bool,
        typer.Option("--side-by-side", help="Test images, their reconstructions and samples."),
    ] = False,
    count: Annotated[int, typer.Option(help="Number of samples, and of test images.")] = 64,
    pairs: Annotated[int, typer.Option(help="Rows of interpolations.")] = 8,
    steps: Annotated[int, typer.Option(help="Images of a row, with both ends.")] = 8,
    temperature: Annotated[float, typer.Option(help="Below 1: more typical samples.")] = 1.0,
    budget: Annotated[
        int | None, typer.Option(help="Largest number of evaluations of a solve.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of samples, and which test images.")] = 0,
    save_each: Annotated[
        bool, typer.Option("--save-each", help="Also every image as a PNG of its own.")
    ] = False,
    checkpoint: Checkpoint = CheckpointChoice.LAST,
    device: Device = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder; RUN_FOLDER/samples without it.")] = None,
    assignments: ImagesOfImport = None,
) -> None:
    """Draw sheets of a trained run, each into a PNG and a npy file; only test images need data."""
    with shown_to_people():
        from flow_apps.sample_request import SampleRequest, Sheet  # noqa: PLC0415 (imports torch)
        from flow_apps.sampling import draw_sheets  # noqa: PLC0415 (as above)

        asked: dict[Sheet, bool] = {
            "samples": samples,
            "real": real,
            "reconstructions": reconstructions,
            "interpolations": interpolations,
            "side_by_side": side_by_side,
        }
        request = SampleRequest(
            sheets=tuple(sheet for sheet, wanted in asked.items() if wanted) or ("samples",),
            count=count,
            pairs=pairs,
            steps=steps,
            temperature=temperature,
            budget=budget,
            seed=seed,
            checkpoint=checkpoint.value,
            device=device or "cpu",
            data_root=data_root,
            save_each=save_each,
            out=out,
            images=parse_assignments(assignments or []),
        )
        drawn = draw_sheets(run_folder, request)
    _tell(drawn)


def _tell(drawn: "Sampled") -> None:
    """The files, and what falls short of them."""
    for file in drawn.files:
        typer.echo(str(file))
    if drawn.reconstruction_error is not None:
        error = f"{drawn.reconstruction_error:.1e}"
        typer.echo(f"largest error of a reconstruction, in [0, 1]: {error}", err=True)
    if drawn.missed:
        typer.echo(f"{drawn.missed} solves of single samples missed their tolerance", err=True)
    if drawn.broken:
        reasons = drawn.reasons or "the base distribution"
        typer.echo(f"{drawn.broken} samples are not finite: {reasons}", err=True)
