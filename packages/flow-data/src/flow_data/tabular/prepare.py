"""The archive of published tables, made into files that are quick and safe to read."""

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flow_data.download import download, require_room
from flow_data.integrity import DataError, is_present, unreadable, unwritable
from flow_data.lookup import look_up
from flow_data.tabular.frames import read_frame
from flow_data.tabular.published import (
    MAF_ARCHIVE,
    PUBLISHED_TABLES,
    PublishedTable,
    TableArchive,
)
from flow_data.whole_file import whole_file

_LARGEST = 2**31
_SPOILT = "fetch the archive again"
NamedArrays = Mapping[str, npt.NDArray[Any]]


def prepare_tables(
    root: Path | str,
    names: Sequence[str] = tuple(PUBLISHED_TABLES),
    *,
    archive: TableArchive = MAF_ARCHIVE,
) -> list[Path]:
    """Fetch published tables where they are not there yet, and convert them once.

    What is there is kept: a file that was converted already, else the published file in the layout
    of the archive (`power/data.npy`, `gas/ethylene_CO.pickle`, …), else the archive `data.tar.gz`,
    and only else it is downloaded, verified and its members taken out. Every file appears whole or
    not at all. The pickle of GAS is read by an unpickler that knows tables of numbers and runs
    nothing.

    Args:
        root: The folder of the tables; it is made.
        names: Which of them: power, gas, hepmass, miniboone, bsds300.
        archive: Where they come from.

    Returns:
        The files that `load_published_table` reads.

    Raises:
        DataError: As in `flow_data.download`; or a file is spoilt, or h5py is missing for BSDS300.
        ValueError: There is no such table.
    """
    root = Path(root)
    tables = [look_up(PUBLISHED_TABLES, name, "published table") for name in names]
    unfinished = [table for table in tables if not _all_present(root, table.prepared)]
    wanted = [file for table in unfinished for file in table.files if not is_present(root / file)]
    if wanted:
        path = download(
            archive.urls, root / "data.tar.gz", checksum=archive.checksum, size=archive.size
        )
        _take_out(path, archive.folder, root, wanted)
    for table in unfinished:
        _convert(root, table)
    return [root / file for table in tables for file in table.prepared]


def _all_present(root: Path, files: Sequence[str]) -> bool:
    return all(is_present(root / file) for file in files)


def _take_out(archive: Path, folder: str, root: Path, wanted: Sequence[str]) -> None:
    """Copy members, by their exact names alone, to places that they do not choose."""
    left = {f"{folder}/{file}": root / file for file in wanted}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                target = left.pop(member.name.removeprefix("./"), None)
                if target is not None:
                    _copy(archive, tar, member, target)
                if not left:
                    return
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(archive, "a whole tar archive", str(error), _SPOILT) from error
    except OSError as error:
        raise unreadable(archive, error) from error
    raise DataError(archive, f"members {', '.join(left)}", "none of that name", _SPOILT)


def _copy(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member) if member.isfile() else None
    if source is None or member.size > _LARGEST:
        expected = f"a file of at most {_LARGEST} bytes as {member.name}"
        raise DataError(archive, expected, "something else", "do not use this archive")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        require_room(target.parent, member.size)
        with source, whole_file(target) as stream:
            shutil.copyfileobj(source, stream)
    except OSError as error:
        raise unwritable(target, member.size, error) from error


def _convert(root: Path, table: PublishedTable) -> None:
    for raw, prepared in zip(table.files, table.prepared, strict=True):
        if raw != prepared and not is_present(root / prepared):
            arrays = _CONVERTERS[Path(raw).suffix](root / raw)
            _write(root / prepared, arrays)


def _write(path: Path, arrays: NamedArrays) -> None:
    size = sum(array.nbytes for array in arrays.values())
    try:
        require_room(path.parent, size)
        with whole_file(path) as stream:
            np.savez(stream, allow_pickle=False, **arrays)
    except OSError as error:
        raise unwritable(path, size, error) from error


def _from_pickle(path: Path) -> NamedArrays:
    frame = read_frame(path)
    return {"values": frame.values, "columns": np.array(frame.columns)}


def _from_csv(path: Path) -> NamedArrays:
    """As many columns as there are names: rows of HEPMASS may have more fields, or fewer."""
    try:
        with path.open(encoding="utf-8") as stream:
            columns = [name.strip() for name in stream.readline().split(",")]
            rows = np.loadtxt(stream, delimiter=",", ndmin=2)[:, : len(columns)]
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(path, "rows of numbers under names", str(error), _SPOILT) from error
    except OSError as error:
        raise unreadable(path, error) from error
    missing = np.full((len(rows), len(columns) - rows.shape[1]), np.nan)
    return {"values": np.hstack([rows, missing]), "columns": np.array(columns)}


def _from_hdf5(path: Path) -> NamedArrays:
    try:
        import h5py  # noqa: PLC0415 (an extra)
    except ImportError as error:
        remedy = 'pip install h5py, or "flow-data[hdf5]"'
        raise DataError(path, "the package h5py, to convert HDF5 once", "none", remedy) from error
    try:
        with h5py.File(path, "r") as file:
            return {part: np.asarray(file[part]) for part in ("train", "validation", "test")}
    except (OSError, KeyError) as error:
        expected = "an HDF5 file with train, validation and test"
        raise DataError(path, expected, str(error), _SPOILT) from error


_CONVERTERS: dict[str, Callable[[Path], NamedArrays]] = {
    ".pickle": _from_pickle,
    ".csv": _from_csv,
    ".hdf5": _from_hdf5,
}
