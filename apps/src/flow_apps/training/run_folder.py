"""The folder of one run: what is in it, who may write to it, and how it is taken up again."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch

from flow_apps.errors import RunFolderError
from flow_apps.training.checkpoint import Checkpoints
from flow_apps.training.files import TEMPORARY_PREFIX, remove_unfinished, write_json
from flow_apps.training.metrics import cut_metrics

_PACKAGES = ("flow-apps", "flow-core", "flow-data", "flow-kernels", "flow-logdet", "flow-solvers")


class RunFolder:
    """Paths of a run.

    Attributes:
        path: The folder.
        checkpoints: Its checkpoints.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.metrics_path = path / "metrics.jsonl"
        self.summary_path = path / "summary.json"
        self.figures = path / "figures"
        self.checkpoints = Checkpoints(path / "checkpoints")

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
        if path.exists() and not _unused_folder(path):
            raise RunFolderError(
                f"{path} exists already and is not overwritten; "
                "give another folder with --out, or go on with --resume"
            )
        folder = cls(path)
        try:
            # First what --resume needs: a process killed before leaves nothing that counts.
            path.mkdir(parents=True, exist_ok=True)
            folder.describe(description, command)
            folder._make_folders()
        except OSError as error:
            raise RunFolderError(f"cannot create {path}: {error.strerror}") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run.

        Raises:
            RunFolderError: If there is no run in this folder.
        """
        folder = cls(path)
        if not folder.config_path.is_file():
            raise RunFolderError(f"no such run: {folder.config_path} does not exist")
        return folder

    def description(self) -> dict[str, Any]:
        """What config.json says: `experiment`, `config`, `versions`, `command`.

        Raises:
            RunFolderError: If config.json is damaged.
        """
        try:
            content = json.loads(self.config_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"cannot read {self.config_path}: {error}") from error
        described = cast(dict[str, Any], content) if isinstance(content, dict) else {}
        if not (
            isinstance(described.get("experiment"), str)
            and isinstance(described.get("config"), dict)
        ):
            raise RunFolderError(f"{self.config_path} is not the config of a run")
        return described

    def describe(self, description: Mapping[str, object], command: Sequence[str]) -> None:
        """Write config.json with the present versions."""
        context = {"versions": versions(), "command": list(command)}
        write_json(self.config_path, {**description, **context})

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.summary_path.exists()

    def rewind(self, step: int) -> None:
        """Prepare for going on after a step: drop half-written files and later metrics."""
        self._make_folders()
        self.checkpoints.set_aside()
        for folder in (self.path, self.checkpoints.folder, self.figures):
            remove_unfinished(folder)
        if self.metrics_path.exists():
            cut_metrics(self.metrics_path, step)
        self.summary_path.unlink(missing_ok=True)

    def start_again(self) -> None:
        """Prepare for a new start; what a damaged run left is renamed, not overwritten."""
        if self.metrics_path.exists() and self.metrics_path.stat().st_size:
            self.metrics_path.replace(_unused(self.path / "metrics.damaged.jsonl"))
        self.rewind(-1)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write summary.json: the run is finished."""
        write_json(self.summary_path, summary)

    def _make_folders(self) -> None:
        for folder in (self.path, self.checkpoints.folder, self.figures):
            folder.mkdir(parents=True, exist_ok=True)


def versions() -> dict[str, str]:
    """Versions of Python, torch and our packages; of a plain source tree they are unknown."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "source tree"
    return found


def _unused_folder(path: Path) -> bool:
    """Whether there is nothing but what a killed process had not finished writing."""
    return path.is_dir() and all(p.name.startswith(TEMPORARY_PREFIX) for p in path.iterdir())


def _unused(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
