"""Checkpoints that are complete or not there, and that say when they are damaged.

A file is a line with the format, a line with the SHA-256 of the rest, and a `torch.save` archive of
tensors, numbers and texts, which is loaded without unpickling code. The digest is needed: most
single flipped bits pass `torch.load` unnoticed.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from flow_apps.errors import CheckpointError
from flow_apps.training.files import write_atomic

_MAGIC = b"flow-apps checkpoint 1\n"
_DIGEST_LENGTH = 64
_KEPT = 2

State = dict[str, Any]


def save_checkpoint(path: Path, state: Mapping[str, object]) -> None:
    """Write a checkpoint atomically.

    Raises:
        DiskError: If the disk refuses; an older file of that name is then untouched.
    """
    write_atomic(path, _packed(state))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> State:
    """Read a checkpoint and verify its digest.

    Raises:
        CheckpointError: If it is not there, is damaged, or is not a checkpoint of this program.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror}") from error
    return _unpacked(path, content, device)


class Checkpoints:
    """The checkpoints of one run: the last two, and the best on validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def best(self) -> Path:
        """Where the best weights are."""
        return self.folder / "best.ckpt"

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.folder / f"step_{step:09d}.ckpt"

    def steps(self) -> list[int]:
        """The steps of which there are files, newest first."""
        names = (path.stem.removeprefix("step_") for path in self.folder.glob("step_*.ckpt"))
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def save(self, step: int, state: Mapping[str, object]) -> None:
        """Write the checkpoint of a step, then delete all but the newest two."""
        save_checkpoint(self.path(step), state)
        for old in self.steps()[_KEPT:]:
            self.path(old).unlink(missing_ok=True)

    def save_best(self, state: Mapping[str, object]) -> None:
        """Replace the best weights."""
        save_checkpoint(self.best, state)

    def newest(self) -> Path:
        """The file of the newest step.

        Raises:
            CheckpointError: If there is none.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"no checkpoint in {self.folder}")
        return self.path(steps[0])

    def newest_valid(self) -> tuple[int | None, list[str]]:
        """The newest step whose file is not damaged, or None, and what was wrong with others."""
        problems: list[str] = []
        for step in self.steps():
            try:
                load_checkpoint(self.path(step))
            except CheckpointError as error:
                problems.append(str(error))
            else:
                return step, problems
        return None, problems

    def set_aside(self) -> None:
        """Rename damaged files, so that nothing overwrites them and nothing reads them again."""
        for step in self.steps():
            path = self.path(step)
            try:
                load_checkpoint(path)
            except CheckpointError:
                path.replace(path.with_suffix(".damaged"))


def _packed(state: Mapping[str, object]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getvalue()
    return _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def _unpacked(path: Path, content: bytes, device: torch.device | str) -> State:
    if not content.startswith(_MAGIC):
        raise CheckpointError(f"{path} is not a checkpoint of this program; nothing was loaded")
    start = len(_MAGIC) + _DIGEST_LENGTH + 1
    digest, payload = content[len(_MAGIC) : start - 1], content[start:]
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise CheckpointError(
            f"checkpoint {path} is damaged: its SHA-256 does not match; "
            "use another checkpoint of the run"
        )
    try:
        return cast(State, torch.load(io.BytesIO(payload), map_location=device, weights_only=True))
    except Exception as error:  # torch.load raises almost anything on foreign content
        # Its message goes on about how to unpickle foreign code.
        raise CheckpointError(
            f"checkpoint {path} holds more than tensors, numbers and texts; it was not loaded, and "
            "no checkpoint of this program is like that: use another one of the run"
        ) from error
