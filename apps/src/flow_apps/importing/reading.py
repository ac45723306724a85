"""Files of `torch.save` that others have published."""

import io
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from flow_data.integrity import bytes_checksum
from torch import Tensor

from flow_apps.errors import CheckpointError
from flow_apps.importing.inert import FOREIGN, Inert, claimed_numbers

LARGEST = 8 * 2**30
_EXPECTED = "a checkpoint written by torch.save"
_AGAIN = "fetch the file again; nothing in it was run"
_LEGACY_HEADERS = 3  # a magic number, a version, and what the machine was


@dataclass(frozen=True)
class Published:
    """What a published file holds.

    Attributes:
        path: The file.
        sha256: Its digest.
        tensors: Its state, by the names that the program gave.
        options: Options of the program, where the file or a JSON beside it has them.
        averages: Moving averages of parameters, by name, where there are some.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    averages: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def read_published(path: Path, *, sha256: str | None = None, largest: int = LARGEST) -> Published:
    """Read a checkpoint of `torch.save`, of either format, without running its pickle.

    Tensors that were on a GPU come onto the CPU. Files of the format since 2020 carry check sums,
    which are compared; those before carry none, so that only a digest tells an altered one.

    Args:
        path: The file.
        sha256: Its digest, where it is known.
        largest: Bytes of the largest file that is read.

    Raises:
        CheckpointError: The file is not there, too large, damaged, or something else.
    """
    content = _content(path, largest)
    digest = bytes_checksum([content], "sha256").hexdigest
    if sha256 is not None and digest != sha256.lower():
        raise _refused(path, f"content with SHA-256 {sha256}", digest, _AGAIN)
    try:
        _require_whole(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stand-ins have no source that could be compared
            loaded: object = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=FOREIGN
            )
    except MemoryError:
        raise
    except Exception as error:  # a spoilt pickle is a program with errors: it can raise anything
        found = " ".join(str(error).split())[:200] or type(error).__name__
        raise _refused(
            path, _EXPECTED, f"a damaged file or another one ({found})", _AGAIN
        ) from error
    return _sorted_out(path, digest, loaded)


def _content(path: Path, largest: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > largest:
            raise _refused(path, f"at most {largest} bytes", f"{size}", "use a smaller model")
        return path.read_bytes()
    except OSError as error:
        found = error.strerror or str(error)
        raise _refused(path, "a readable file", found, "check that the path is right") from error


def _require_whole(content: bytes) -> None:
    """Check sums, and that tensors do not claim more than the file can hold."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        if claimed_numbers(content, _LEGACY_HEADERS) > len(content):
            raise ValueError("tensors that are larger than the file")
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError("a TorchScript program")
        if sum(entry.file_size for entry in archive.infolist()) > len(content):
            raise ValueError("entries that are larger than the file")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"a wrong check sum of {damaged}")


def _sorted_out(path: Path, digest: str, loaded: object) -> Published:
    """The state, options and averages of what was loaded."""
    if not isinstance(loaded, dict):
        raise _refused(path, "a dictionary of tensors", type(loaded).__name__, "use another file")
    entries = {str(k): v for k, v in cast(dict[object, object], loaded).items()}
    if not isinstance(entries.get("state_dict"), dict):
        return Published(path, digest, _tensors(path, entries))
    state = cast(dict[str, object], entries["state_dict"])
    averages = _state(entries.get("ema")).get("shadow_params", {})
    return Published(
        path,
        digest,
        _tensors(path, state),
        _state(entries.get("args")),
        _tensors(path, cast(dict[str, object], averages)),
    )


def _tensors(path: Path, entries: Mapping[str, object]) -> dict[str, Tensor]:
    """The entries, if all of them are finite tensors."""
    others = [name for name, value in entries.items() if not isinstance(value, Tensor)]
    if others:
        found = f"{type(entries[others[0]]).__name__} as {others[0]}"
        raise _refused(path, "a dictionary of tensors", found, "use another file")
    kept = cast(dict[str, Tensor], dict(entries))
    for name, tensor in kept.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise _refused(path, "finite numbers", f"others in {name}", _AGAIN)
    return {name: tensor.detach() for name, tensor in kept.items()}


def _state(value: object) -> dict[str, Any]:
    return value.state if isinstance(value, Inert) else {}


def _refused(path: Path, expected: str, found: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"{path}: expected {expected}, got {found}; {remedy}")
