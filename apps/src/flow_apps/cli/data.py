"""What fetches data and verifies them: training itself never uses the network."""

from pathlib import Path
from typing import Annotated

import typer

from flow_apps.cli.common import shown_to_people
from flow_apps.config import suggestion
from flow_apps.errors import ConfigError

_IMAGES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn")
_PICTURES = (
    "dtd",
    "places365",
    "tinyimagenet",
    "imagenet_resize",
    "imagenet_crop",
    "lsun_resize",
    "lsun_crop",
    "isun",
    "notmnist",
    "omniglot",
    "omniglot_background",
)
_PRETRAINED = ("pretrained-glow", "pretrained-resflow")
VERIFIED_NAMES = (*_IMAGES, *_PICTURES, *_PRETRAINED)
"""What `verify` knows."""

_NAMES = ("tabular", *VERIFIED_NAMES)
_Root = Annotated[Path, typer.Option(help="Folder of the data.")]

data = typer.Typer(
    help="Fetch data that experiments read, and verify them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@data.callback()
def _group() -> None:
    """Fetch data that experiments read, and verify them."""


@data.command()
def prepare(
    what: Annotated[str, typer.Argument(help=f"One of {', '.join(_NAMES)}.")],
    data_root: _Root = Path("data"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="A table of tabular, as often as wanted; all five without it."),
    ] = None,
) -> None:
    """Fetch published data, verify them, and convert them once; what is there is kept."""
    with shown_to_people():
        _require_known(what, _NAMES)
        if only and what != "tabular":
            raise ConfigError(f"only: {what} is prepared as a whole")
        if what == "tabular":
            paths = _tables(data_root, only)
        else:
            paths = [_archive(what, data_root)] if what not in _IMAGES else _images(what, data_root)
    for path in paths:
        typer.echo(str(path))


@data.command()
def verify(
    what: Annotated[str, typer.Argument(help=f"One of {', '.join(VERIFIED_NAMES)}.")],
    data_root: _Root = Path("data"),
) -> None:
    """Compare what is there with published digests and counts: a line a file; 1 if any is wrong.

    Pictures are decoded one by one. Files whose digest nobody published are compared with what they
    were when they were prepared.
    """
    wrong = 0
    with shown_to_people():
        if what == "tabular":
            raise ConfigError("what: tables are compared whenever they are read, there is no more")
        _require_known(what, VERIFIED_NAMES)
        from flow_data import verify_data  # noqa: PLC0415 (imports torch)

        for finding in verify_data(what, data_root):
            typer.echo(str(finding))
            wrong += not finding.good
    if wrong:
        typer.echo(f"error: {wrong} of {what} are not as they should be", err=True)
        raise typer.Exit(1)


def _require_known(what: str, names: tuple[str, ...]) -> None:
    if what not in names:
        hint = suggestion(what, names) or f"; known: {', '.join(names)}"
        raise ConfigError(f"what: there are no data named {what!r}{hint}")


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
        "svhn": flow_data.download_svhn,
    }[what](root)
    return [root]


def _archive(what: str, root: Path) -> Path:
    from flow_data import PICTURES, PRETRAINED, fetch_archive  # noqa: PLC0415 (imports torch)

    archive = PRETRAINED[what] if what in PRETRAINED else PICTURES[what].archive
    place = fetch_archive(root, archive)
    if archive.checksum is None:
        typer.echo(
            f"note: nobody published a digest of {archive.file}: its SHA-256 is pinned as it was "
            "when it was first used",
            err=True,
        )
    return place
