"""Models on images that they were not trained on."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flow_apps.cli.common import (
    Checkpoint,
    CheckpointChoice,
    DataRoot,
    Device,
    shown_to_people,
)


class SpectrumChoice(StrEnum):
    """How singular values are found."""

    AUTO = "auto"
    DENSE = "dense"
    LANCZOS = "lanczos"


class LogDetChoice(StrEnum):
    """Which estimates of log-determinants."""

    VALIDATION = "validation"
    TEST = "test"


def ood(  # noqa: PLR0917 (typer passes options by name)
    models: Annotated[
        list[Path], typer.Argument(help="Run folders of image models, and imported checkpoints.")
    ],
    sets: Annotated[
        list[str],
        typer.Option(
            help="Sets with commas between them: own, gaussian, uniform, rademacher, mnist, "
            "cifar10/train, svhn, dtd, npz:FILE, tensor:FILE, folder:FOLDER, and others."
        ),
    ],
    images: Annotated[int, typer.Option(help="Images of every set, spread over it.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    trips: Annotated[int, typer.Option(help="Round trips of the second pixel error.")] = 9,
    jacobians: Annotated[
        int, typer.Option(help="Images of every set that have singular values; 0 for none.")
    ] = 1,
    spectrum: Annotated[
        SpectrumChoice, typer.Option(help="How singular values are found.")
    ] = SpectrumChoice.AUTO,
    log_dets: Annotated[
        LogDetChoice, typer.Option(help="Where they are estimates: those of which evaluations.")
    ] = LogDetChoice.VALIDATION,
    rtol: Annotated[
        float | None, typer.Option(help="Relative tolerance of solves; the model's without it.")
    ] = None,
    pictures: Annotated[int, typer.Option(help="Images of every set on the sheet.")] = 8,
    seed: Annotated[int, typer.Option(help="Of noise; the same for all models.")] = 0,
    checkpoint: Checkpoint = CheckpointChoice.LAST,
    device: Device = None,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; MODEL/ood without it, of one model.")
    ] = None,
) -> None:
    """Tell how models do on other images: reconstructions, NaN and Inf, bits/dim, conditioning."""
    with shown_to_people():
        from flow_apps.outliers import (  # noqa: PLC0415 (imports torch)
            OutliersRequest,
            compare_on_sets,
        )

        request = OutliersRequest(
            sets=tuple(name.strip() for some in sets for name in some.split(",") if name.strip()),
            images=images,
            batch_size=batch_size,
            trips=trips,
            jacobians=jacobians,
            spectrum=spectrum.value,
            log_dets=log_dets.value,
            rtol=rtol,
            pictures=pictures,
            seed=seed,
            checkpoint=checkpoint.value,
            device=device or "cpu",
            data_root=data_root,
            out=out,
        )
        found = compare_on_sets(models, request)
    typer.echo(found.text)
    typer.echo(str(found.folder))
