"""Several models on several sets, into one table and one sheet of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flow_data import ImageSet
from torch import Tensor

from flow_apps.errors import ConfigError, RunFolderError
from flow_apps.figures.outliers import draw_outliers
from flow_apps.outliers.measuring import measure
from flow_apps.outliers.request import OutliersRequest
from flow_apps.outliers.sets import load_set, require_sets
from flow_apps.outliers.subjects import Subject, load_subject
from flow_apps.outliers.table import OutliersRow, as_csv, as_text, row_of
from flow_apps.training import Display
from flow_apps.training.files import write_atomic, write_json, writing

_TABLE, _SHEET = "table", "sheet.png"


@dataclass(frozen=True)
class Compared:
    """What was found.

    Attributes:
        rows: Of every model on every set.
        text: The table for people.
        folder: Where table.txt, table.csv, table.json and sheet.png are.
    """

    rows: tuple[OutliersRow, ...]
    text: str
    folder: Path


def compare_on_sets(paths: Sequence[Path], request: OutliersRequest) -> Compared:
    """Measure every model on every set, and write one table and one sheet of pictures.

    Args:
        paths: Run folders of image models, and folders of imported checkpoints.
        request: Sets, and what is measured.

    Raises:
        AppError: A model cannot be read or is none of images, there is no such set, or the folder
            holds a table already.
        DataError: A set is missing or damaged; before anything is measured.
    """
    require_sets(request.sets)
    folder = _free_folder(paths, request)
    display = Display()
    with display.phase("loading"):
        subjects = [load_subject(path, request, display) for path in paths]
        subjects = _told_apart(subjects, paths)
        sets = {subject.name: _sets(subject, request) for subject in subjects}
    rows: list[OutliersRow] = []
    panels: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for subject in subjects:
        for name, images in sets[subject.name].items():
            with display.phase(f"{subject.name} on {name}"):
                found = measure(subject, images, request)
            rows.append(row_of(subject.name, name, found, request.trips))
            panels.setdefault(subject.name, {})[name] = (found.originals, found.reconstructions)
    notes = [f"{subject.name}: {'; '.join(subject.notes)}" for subject in subjects]
    text = as_text(rows, notes)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _write(folder, rows, text, {subject.name: subject.notes for subject in subjects})
    draw_outliers(panels, folder / _SHEET)
    return Compared(tuple(rows), text, folder)


def _free_folder(paths: Sequence[Path], request: OutliersRequest) -> Path:
    if not paths:
        raise ConfigError("models: expected at least one run folder or import, got none")
    if request.out is None and len(paths) > 1:
        raise ConfigError(
            f"out: expected a folder for the table of {len(paths)} models; give --out"
        )
    folder = request.out or paths[0] / "ood"
    if (folder / f"{_TABLE}.json").exists():
        raise RunFolderError(
            f"{folder} holds a table already, which is not overwritten; give another --out"
        )
    return folder


def _told_apart(subjects: list[Subject], paths: Sequence[Path]) -> list[Subject]:
    names = [subject.name for subject in subjects]
    if len(set(names)) == len(names):
        return subjects
    repeated = ", ".join(str(path) for path in paths)
    raise ConfigError(f"models: expected folders of different names, got {repeated}; rename one")


def _sets(subject: Subject, request: OutliersRequest) -> Mapping[str, ImageSet]:
    root = request.data_root or "data"
    return {
        name: load_set(
            name,
            subject.shape,
            subject.model.levels,
            count=request.images,
            seed=request.seed,
            root=root,
            own=subject.own,
        )
        for name in request.sets
    }


def _write(
    folder: Path, rows: Sequence[OutliersRow], text: str, notes: Mapping[str, Sequence[str]]
) -> None:
    write_atomic(folder / f"{_TABLE}.txt", text.encode())
    write_atomic(folder / f"{_TABLE}.csv", as_csv(rows).encode())
    content = {"rows": [asdict(row) for row in rows], "models": notes}
    write_json(folder / f"{_TABLE}.json", content)
