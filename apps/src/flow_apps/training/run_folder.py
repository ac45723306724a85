"""The folder of one run: what is in it, who may write to it, and how it is taken up again."""

import math
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flow_apps.errors import RunFolderError
from flow_apps.run_description import CONFIG_NAME, read_description, require_run
from flow_apps.training.checkpoint import Checkpoints
from flow_apps.training.compilation import COMPILED_PREFIX
from flow_apps.training.files import TEMPORARY_PREFIX, remove_unfinished, write_array, write_json
from flow_apps.training.lock import LOCK_NAME
from flow_apps.training.metrics import cut_metrics, read_metrics

# What a process leaves for as long as it works.
_PASSING = (TEMPORARY_PREFIX, COMPILED_PREFIX)
_PACKAGES = ("flow-apps", "flow-core", "flow-data", "flow-kernels", "flow-logdet", "flow-solvers")


class RunFolder:
    """Paths of a run.

    Attributes:
        path: The folder.
        checkpoints: Its checkpoints.
        tested: What every sample of the final test got.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / CONFIG_NAME
        self.metrics_path = path / "metrics.jsonl"
        self.summary_path = path / "summary.json"
        self.figures = path / "figures"
        self.tested = path / "test"
        self.checkpoints = Checkpoints(path / "checkpoints")

    @staticmethod
    def make_place(path: Path) -> None:
        """Make the folder itself, for its lock.

        Raises:
            RunFolderError: If it cannot be made.
        """
        if path.is_symlink() and not path.exists():
            raise RunFolderError(f"{path} is a link to nothing; remove it or give another --out")
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file and no folder; give another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot create {path}: {error.strerror or error}") from error

    @classmethod
    def create(
        cls, path: Path, description: Mapping[str, object], command: Sequence[str]
    ) -> "RunFolder":
        """Make a new folder with its config.json.

        Args:
            path: The folder.
            description: What config.json says besides versions and command: `experiment`, `config`.
            command: The command line.

        Raises:
            RunFolderError: If there is something already, or the folder cannot be made.
        """
        folder = cls(path)
        cls.make_place(path)
        if not folder._never_began():
            raise RunFolderError(
                f"{path} exists already and is not overwritten; "
                "give another folder with --out, or go on with --resume"
            )
        try:
            folder._clear()
            # First what --resume needs: a process killed before leaves nothing that counts.
            folder.describe(description, command)
            folder._make_folders()
        except OSError as error:
            raise RunFolderError(f"cannot create {path}: {error.strerror or error}") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run.

        Raises:
            RunFolderError: If there is no run in this folder.
        """
        require_run(path)
        return cls(path)

    def description(self) -> dict[str, Any]:
        """What config.json says: `experiment`, `config`, `versions`, `command`.

        Raises:
            RunFolderError: If config.json is damaged.
        """
        return read_description(self.path)

    def describe(self, description: Mapping[str, object], command: Sequence[str]) -> None:
        """Write config.json with the present versions."""
        context = {"versions": versions(), "command": list(command)}
        write_json(self.config_path, {**description, **context})

    def record_changes(
        self,
        step: int,
        changed: Mapping[str, tuple[object, object]],
        command: Sequence[str],
    ) -> None:
        """Bring config.json up to date with what a resumed run was told, and when.

        Args:
            step: Steps after this one follow the new config.
            changed: Old and new values by dotted key.
            command: The command line.
        """
        description = self.description()
        for key, (_, new) in changed.items():
            *parents, name = key.split(".")
            place = description["config"]
            for parent in parents:
                place = place.setdefault(parent, {})
            place[name] = new
        if changed:
            told = {key: list(values) for key, values in changed.items()}
            entry = {"after_step": step, "changed": told, "command": list(command)}
            description["changes"] = [*description.get("changes", []), entry]
        self.describe(description, description.get("command", []))

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.summary_path.exists()

    def rewind(self, step: int, best: float) -> None:
        """Prepare for going on after a step: drop half-written files and what is written again.

        Args:
            step: The last step that counts.
            best: The best value up to then; infinite where there was no evaluation that counts.
        """
        self._make_folders()
        self.checkpoints.set_aside()
        for folder in (self.path, self.checkpoints.folder, self.figures, self.tested):
            remove_unfinished(folder)
        if self.metrics_path.exists():
            cut_metrics(self.metrics_path, step)
        if not math.isfinite(best):
            self.checkpoints.best.unlink(missing_ok=True)
        self.summary_path.unlink(missing_ok=True)

    def start_again(self) -> None:
        """Prepare for a new start; what a damaged run left is renamed, not overwritten."""
        if self.metrics_path.exists() and self.metrics_path.stat().st_size:
            self.metrics_path.replace(_unused(self.path / "metrics.damaged.jsonl"))
        self.rewind(-1, math.inf)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write summary.json: the run is finished."""
        write_json(self.summary_path, summary)

    def write_tested(self, name: str, values: Tensor) -> None:
        """Write what every sample of a final test got."""
        self.tested.mkdir(exist_ok=True)
        write_array(self.tested / f"{name}.npy", values)

    def write_about(self, about: Mapping[str, object]) -> None:
        """Write what the samples of the final test are, beside what they got."""
        if about:
            write_json(self.tested / "about.json", about)

    def _make_folders(self) -> None:
        for folder in (self.path, self.checkpoints.folder, self.figures):
            folder.mkdir(parents=True, exist_ok=True)

    def _own(self) -> tuple[Path, ...]:
        return (
            self.config_path,
            self.metrics_path,
            self.figures,
            self.checkpoints.folder,
            self.path / "tensorboard",
            self.path / LOCK_NAME,
        )

    def _never_began(self) -> bool:
        """Whether there is nothing but what a start leaves that failed before its first step."""
        foreign = [
            entry
            for entry in self.path.iterdir()
            if entry not in self._own() and not entry.name.startswith(_PASSING)
        ]
        stepped = any(row["step"] > 0 for row in read_metrics(self.metrics_path))
        return not foreign and not stepped and max(self.checkpoints.steps(), default=0) == 0

    def _clear(self) -> None:
        """Remove what a failed start left."""
        remove_unfinished(self.path)
        compiled = self.path.glob(f"{COMPILED_PREFIX}*")
        for entry in (*self._own(), *compiled):
            if entry.name == LOCK_NAME:  # whoever holds it removes it
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of Python, torch and our packages; of a plain source tree they are unknown."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "source tree"
    return found


def _unused(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
