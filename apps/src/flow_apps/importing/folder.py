"""What an import leaves: weights as safetensors, and a JSON that tells what they belong to."""

from dataclasses import dataclass
from pathlib import Path

from flow_core import Flow
from flow_data.integrity import bytes_checksum
from safetensors.torch import load, save

from flow_apps.config import from_json, to_json
from flow_apps.errors import CheckpointError, ConfigError
from flow_apps.importing.contractive import with_averages
from flow_apps.importing.layouts import (
    LAYOUTS,
    LayoutName,
    find_layout,
    made,
    read_object,
    with_hparams,
    with_layout,
)
from flow_apps.importing.reading import Published, read_published
from flow_apps.training import find_device
from flow_apps.training.files import write_atomic, write_json, writing

WEIGHTS, DESCRIPTION = "weights.safetensors", "imported.json"
_FORMAT = "flow-apps import 1"


@dataclass(frozen=True)
class Imported:
    """A published checkpoint as a flow.

    Attributes:
        flow: It, in evaluation mode.
        layout: The layout of the file.
        notes: What is worth knowing of the conversion.
        folder: Where it was written.
    """

    flow: Flow
    layout: LayoutName
    notes: tuple[str, ...]
    folder: Path


def import_checkpoint(
    path: Path,
    out: Path,
    *,
    layout: str | None = None,
    sha256: str | None = None,
    ema: bool | None = None,
) -> Imported:
    """Convert a published checkpoint; its pickle is not executed.

    Args:
        path: The file, as `torch.save` wrote it.
        out: Folder for the weights and their description, new or empty.
        layout: One of `LAYOUTS`; None to tell it by the names of the tensors.
        sha256: Digest of the file, where it is known.
        ema: Whether to take moving averages of the parameters, in place of the last ones; None to
            take them where the file has some, as published figures are theirs.

    Raises:
        CheckpointError: The file is damaged, altered, or of no known layout.
        ConfigError: There is no such layout, or the folder holds something.
        DiskError: The disk refuses.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: expected a new or empty folder; choose another one")
    published = with_hparams(read_published(path, sha256=sha256))
    name = find_layout(published, layout)
    kind, published = LAYOUTS[name], with_layout(published, name)
    averaged = bool(published.averages) if ema is None else ema
    if averaged:
        published = with_averages(published)
    sizes = kind.read(published)
    floating = next(t for t in published.tensors.values() if t.is_floating_point())
    flow = made(kind, sizes, floating)
    notes = [*_of_weights(published, averaged=averaged), *kind.fill(flow, sizes, published)]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    weights = save({key: t.contiguous() for key, t in flow.state_dict().items()})
    write_atomic(out / WEIGHTS, weights)
    description = {
        "format": _FORMAT,
        "layout": name,
        "sizes": to_json(sizes),
        "weights": "averages" if averaged else "last",
        "notes": notes,
        "source": {"name": path.name, "sha256": published.sha256},
        "sha256": bytes_checksum([weights], "sha256").hexdigest,
    }
    write_json(out / DESCRIPTION, description)
    return Imported(flow, name, tuple(notes), out)


def _of_weights(published: Published, *, averaged: bool) -> list[str]:
    """Which weights were taken, where there was a choice."""
    if averaged:
        return ["moving averages of the weights, as of the published figures; ema=False for others"]
    if published.averages:
        return ["the last weights: published figures are those of the moving averages"]
    return []


def is_imported(folder: Path) -> bool:
    """Whether a folder is one that `import_checkpoint` wrote."""
    return (folder / DESCRIPTION).exists()


def load_imported(folder: Path, device: str = "cpu") -> Flow:
    """The flow of an import, in evaluation mode.

    Raises:
        CheckpointError: A file is missing, damaged, or of another program.
    """
    description = read_object(folder / DESCRIPTION)
    name = description.get("layout")
    if description.get("format") != _FORMAT or name not in LAYOUTS:
        raise _spoilt(folder / DESCRIPTION, "a description of this program", "another one")
    kind = LAYOUTS[name]
    source = folder / WEIGHTS
    try:
        content = source.read_bytes()
    except OSError as error:
        raise _spoilt(source, "a readable file", error.strerror or str(error)) from error
    digest = bytes_checksum([content], "sha256").hexdigest
    if digest != description.get("sha256"):
        raise _spoilt(source, f"content with SHA-256 {description.get('sha256')}", digest)
    state = load(content)
    sizes = from_json(kind.sizes, description["sizes"])
    floating = next(t for t in state.values() if t.is_floating_point())
    flow = made(kind, sizes, floating)
    flow.load_state_dict(state)
    return flow.to(find_device(device)).eval()


def _spoilt(path: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: expected {expected}, got {found}; import the published file again"
    )
