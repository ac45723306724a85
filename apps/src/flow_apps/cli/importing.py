"""Published checkpoints of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from flow_apps.cli.common import shown_to_people


def import_published(
    file: Annotated[Path, typer.Argument(help="A checkpoint written by torch.save.")],
    out: Annotated[Path, typer.Option(help="A new folder for what it becomes.")],
    layout: Annotated[
        str | None, typer.Option(help="Its layout; told by its names of tensors without this.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Digest of the file, where it is known.")
    ] = None,
    ema: Annotated[
        bool | None,
        typer.Option(
            "--ema/--last-weights",
            help="Moving averages, or the last weights; averages where there are some.",
        ),
    ] = None,
) -> None:
    """Convert a published checkpoint into safetensors, without running its pickle."""
    with shown_to_people():
        from flow_apps.importing import import_checkpoint  # noqa: PLC0415 (imports torch)

        imported = import_checkpoint(file, out, layout=layout, sha256=sha256, ema=ema)
    for note in imported.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{imported.layout}: {imported.folder}")
