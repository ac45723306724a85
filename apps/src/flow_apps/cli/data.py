"""What fetches data: training itself never uses the network."""

from pathlib import Path
from typing import Annotated

import typer

from flow_apps.cli.common import shown_to_people
from flow_apps.config import suggestion
from flow_apps.errors import ConfigError

_IMAGES = ("mnist", "fashion_mnist", "cifar10", "cifar100")
_NAMES = ("tabular", *_IMAGES)

data = typer.Typer(
    help="Fetch data that experiments read.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@data.callback()
def _group() -> None:
    """Fetch data that experiments read."""


@data.command()
def prepare(
    what: Annotated[str, typer.Argument(help=f"One of {', '.join(_NAMES)}.")],
    data_root: Annotated[Path, typer.Option(help="Folder of the data.")] = Path("data"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="A table of tabular, as often as wanted; all five without it."),
    ] = None,
) -> None:
    """Fetch published data, verify them, and convert them once; what is there is kept."""
    with shown_to_people():
        if what not in _NAMES:
            hint = suggestion(what, _NAMES) or f"; known: {', '.join(_NAMES)}"
            raise ConfigError(f"what: there are no data named {what!r}{hint}")
        if only and what != "tabular":
            raise ConfigError(f"only: {what} is prepared as a whole")
        for path in _tables(data_root, only) if what == "tabular" else _images(what, data_root):
            typer.echo(str(path))


def _tables(root: Path, only: list[str] | None) -> list[Path]:
    from flow_data import PUBLISHED_TABLES, prepare_tables  # noqa: PLC0415 (imports torch)

    return prepare_tables(root, only or list(PUBLISHED_TABLES))


def _images(what: str, root: Path) -> list[Path]:
    import flow_data  # noqa: PLC0415 (imports torch)

    {
        "mnist": flow_data.download_mnist,
        "fashion_mnist": flow_data.download_fashion_mnist,
        "cifar10": flow_data.download_cifar10,
        "cifar100": flow_data.download_cifar100,
    }[what](root)
    return [root]
