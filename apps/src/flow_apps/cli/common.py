"""What all commands share: options, and how problems are shown."""

import logging
import os
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flow_apps.errors import AppError

INTERRUPTED = 130
_TRACEBACK = "FLOW_TRACEBACK"


class CheckpointChoice(StrEnum):
    """Which weights of a run."""

    LAST = "last"
    BEST = "best"


RunArgument = Annotated[Path, typer.Argument(help="The run folder.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.")]
DataRoot = Annotated[str | None, typer.Option(help="Folder of the data, as torchvision lays it.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any field of the config, see `config`."),
]
Checkpoint = Annotated[CheckpointChoice, typer.Option(help="Last or best weights.")]


@contextmanager
def shown_to_people() -> Generator[None, None, None]:
    """Show a problem that the user can act on as one line, and exit with 1.

    Warnings of libraries, which the user can do nothing about, are left out. With FLOW_TRACEBACK in
    the environment warnings and the traceback come through.
    """
    if _TRACEBACK in os.environ:
        yield
        return
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        yield
    except (AppError, ValueError, OSError, MemoryError, RuntimeError) as error:
        if not _is_actionable(error):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(1) from None
    finally:
        logging.disable(logging.NOTSET)


def _is_actionable(error: Exception) -> bool:
    """Whether a user can do something: of torch's own errors only about a lack of memory."""
    return not isinstance(error, RuntimeError) or "memory" in str(error)
