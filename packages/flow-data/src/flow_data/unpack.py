"""Archives that are unpacked whole, or not at all."""

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from flow_data.download import require_room
from flow_data.integrity import DataError, unreadable, unwritable

_REMEDY = "fetch the archive again"
_MOST_MEMBERS = 10_000


def unpack_tar(archive: Path, folder: Path, *, limit: int, check: Callable[[Path], None]) -> None:
    """Unpack the folder of that name from a tar archive, compressed or not.

    The content goes to a temporary folder beside, is checked, and only then given the final name.
    Members that point outside, links and devices are refused.

    Args:
        archive: The tar file.
        folder: Final name of the folder, which has the same name in the archive.
        limit: Bytes that the content may take at most; no more is ever written.
        check: Raises if the folder it is given is not as it should be.

    Raises:
        DataError: The archive is unreadable, spoilt or too large, or the disk refused its content.
    """
    try:
        with archive.open("rb") as stream:
            _unpack(archive, stream, folder, limit, check)
    except OSError as error:
        raise unreadable(archive, error) from error


def _unpack(
    archive: Path, stream: BinaryIO, folder: Path, limit: int, check: Callable[[Path], None]
) -> None:
    try:
        require_room(folder.parent, limit)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"
        ) as temporary:
            _extract(archive, stream, Path(temporary), limit)
            _place(archive, Path(temporary) / folder.name, folder, check)
    except OSError as error:
        raise unwritable(folder, limit, error) from error


def _extract(archive: Path, stream: BinaryIO, folder: Path, limit: int) -> None:
    size = 0
    try:
        with tarfile.open(fileobj=stream) as tar:
            for count, member in enumerate(tar):
                size += member.size
                if size > limit or count >= _MOST_MEMBERS:
                    expected = f"at most {limit} bytes in {_MOST_MEMBERS} files"
                    raise DataError(archive, expected, "more", _REMEDY)
                _extract_member(archive, tar, member, folder)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(archive, "a whole and harmless tar archive", str(error), _REMEDY) from error


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
