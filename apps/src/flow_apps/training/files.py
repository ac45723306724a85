"""Files that are either complete or not there."""

import contextlib
import io
import json
import math
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor

from flow_apps.errors import DiskError

TEMPORARY_PREFIX = ".unfinished-"


@contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    """Say of a disk that refuses which file it was, and what to do.

    Raises:
        DiskError: If the disk refuses.
    """
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"cannot write {path}: {error.strerror or error}; make room for it or choose another "
            "place; what was written before is complete, a run with checkpoints goes on by --resume"
        ) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Raises:
        DiskError: If the disk refuses; the old file is then untouched and nothing is left behind.
    """
    with writing(path):
        _replace(path, content)
    _sync_folder(path.parent)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_array(path: Path, values: Tensor) -> None:
    """Write a tensor as a .npy file, atomically."""
    buffer = io.BytesIO()
    np.save(buffer, values.detach().cpu().numpy())
    write_atomic(path, buffer.getvalue())


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object atomically, in a form that people read; see `json_values`."""
    text = json.dumps(json_values(content), indent=2, allow_nan=False)
    write_atomic(path, f"{text}\n".encode())


def json_values(value: object) -> object:
    """NaN and infinity as texts inside any containers, because JSON has none."""
    if isinstance(value, Mapping):
        return {name: json_values(v) for name, v in cast(Mapping[str, object], value).items()}
    if isinstance(value, list | tuple):
        return [json_values(v) for v in cast(Sequence[object], value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed process left of files it was writing."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; not every file system offers it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
