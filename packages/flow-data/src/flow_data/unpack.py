"""Archives that are unpacked whole, or not at all."""

import gzip
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from flow_data.download import require_room
from flow_data.integrity import DataError, unreadable, unwritable

_REMEDY = "fetch the archive again"
_MOST_MEMBERS = 10_000


def unpack(
    archive: Path,
    folder: Path,
    *,
    limit: int,
    check: Callable[[Path], None],
    most_members: int = _MOST_MEMBERS,
) -> None:
    """Unpack the folder of that name from a tar archive, compressed or not, or a zip archive.

    The content goes to a temporary folder beside, is checked, and only then given the final name.
    Members that point outside, links and devices are refused.

    Args:
        archive: The file; its name ends in .zip, or it is a tar archive.
        folder: Final name of the folder, which has the same name in the archive.
        limit: Bytes that the content may take at most; no more is ever written.
        check: Raises if the folder it is given is not as it should be.
        most_members: Files and folders that it may have.

    Raises:
        DataError: The archive is unreadable, spoilt or too large, or the disk refused its content.
    """
    extract = _extract_zip if archive.suffix == ".zip" else _extract_tar
    try:
        with archive.open("rb") as stream:
            _unpack(folder, limit, check, _Source(archive, stream, limit, most_members), extract)
    except OSError as error:
        raise unreadable(archive, error) from error


@dataclass(frozen=True)
class _Source:
    archive: Path
    stream: BinaryIO
    limit: int
    most_members: int

    def require_small(self, size: int, count: int) -> None:
        if size > self.limit or count > self.most_members:
            expected = f"at most {self.limit} bytes in {self.most_members} files"
            raise DataError(self.archive, expected, "more", _REMEDY)

    def refused(self, kind: str, error: Exception) -> DataError:
        return DataError(self.archive, f"a whole and harmless {kind} archive", str(error), _REMEDY)


def _unpack(
    folder: Path,
    limit: int,
    check: Callable[[Path], None],
    source: _Source,
    extract: Callable[[_Source, Path], None],
) -> None:
    try:
        require_room(folder.parent, limit)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"
        ) as temporary:
            extract(source, Path(temporary))
            _place(source.archive, Path(temporary) / folder.name, folder, check)
    except OSError as error:
        raise unwritable(folder, limit, error) from error


def _extract_tar(source: _Source, folder: Path) -> None:
    size = 0
    try:
        with tarfile.open(fileobj=source.stream) as tar:
            for count, member in enumerate(tar, 1):
                size += member.size
                source.require_small(size, count)
                _extract_member(source.archive, tar, member, folder)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise source.refused("tar", error) from error


def _extract_zip(source: _Source, folder: Path) -> None:
    """zipfile reads no more of a member than it announces, and compares its check sum."""
    try:
        with zipfile.ZipFile(source.stream) as archive:
            members = archive.infolist()
            source.require_small(sum(member.file_size for member in members), len(members))
            for member in members:
                _require_inside(source.archive, member.filename)
                archive.extract(member, folder)
    # Zip files raise RuntimeError and NotImplementedError for what they cannot decompress.
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        raise source.refused("zip", error) from error


def _require_inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise DataError(archive, "files in the archive alone", name, "do not use this archive")


def _extract_member(
    archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path
) -> None:
    if not (member.isfile() or member.isdir()):
        found = f"{member.name}, which is neither"
        raise DataError(archive, "files and folders alone", found, "do not use this archive")
    tar.extract(member, folder, filter="data")


def _place(archive: Path, source: Path, folder: Path, check: Callable[[Path], None]) -> None:
    if not source.is_dir():
        raise DataError(
            archive, f"a folder {folder.name}", "none", "check that it is the right one"
        )
    check(source)
    try:
        source.rename(folder)
    except OSError:
        # Another process was faster: what it left is as good, if it is whole.
        if not folder.is_dir():
            raise
        check(folder)
