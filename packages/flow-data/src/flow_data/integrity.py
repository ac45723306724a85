"""What is known about a file before it is trusted: its digest, and one kind of error."""

import errno
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Algorithm = Literal["md5", "sha256"]
Verification = Literal["content", "format"]

_READING = {
    errno.ENOENT: "check that the path is right, or fetch the data first",
    errno.EACCES: "get the right to read it, or use a copy of your own",
    errno.EPERM: "get the right to read it, or use a copy of your own",
}
_NO_RIGHT = "get the right to write there, or choose another folder"
_WRITING = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
}


class DataError(ValueError):
    """Data that is missing or is not what it should be.

    Attributes:
        subject: The file, folder or address.
        expected: What should have been there.
        found: What came instead.
        remedy: What to do about it.
    """

    def __init__(self, subject: object, expected: str, found: str, remedy: str) -> None:
        super().__init__(str(subject), expected, found, remedy)
        self.subject = str(subject)
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.subject}: expected {self.expected}, got {self.found}; {self.remedy}"


@dataclass(frozen=True)
class Checksum:
    """A digest by which content is recognised."""

    algorithm: Algorithm
    hexdigest: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.hexdigest}"


def bytes_checksum(pieces: Iterable[bytes], algorithm: Algorithm) -> Checksum:
    """Digest of bytes in memory, given in pieces."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return Checksum(algorithm, digest.hexdigest())


def file_checksum(path: Path, algorithm: Algorithm) -> Checksum:
    """Digest of a file, read in pieces.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(
                stream, lambda: hashlib.new(algorithm, usedforsecurity=False)
            )
    except OSError as error:
        raise unreadable(path, error) from error
    return Checksum(algorithm, digest.hexdigest())


def is_present(path: Path) -> bool:
    """Whether there is a file or folder of that name.

    Raises:
        DataError: A folder on the way to it cannot be read, so that nobody knows.
    """
    try:
        return path.exists()
    except OSError as error:
        raise unreadable(path, error) from error


def require_checksum(path: Path, checksum: Checksum, remedy: str) -> None:
    """Read a file and compare its digest.

    Raises:
        DataError: The file cannot be read or has another digest.
    """
    found = file_checksum(path, checksum.algorithm)
    if found != checksum:
        raise DataError(path, f"content with {checksum}", str(found), remedy)


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that the system does not let us read."""
    remedy = _READING.get(error.errno or 0, "check that the path is right and the disk is sound")
    return DataError(path, "a readable file", error.strerror or str(error), remedy)


def unwritable(path: Path, size: int, error: OSError) -> DataError:
    """The error for `size` bytes that the system does not let us write."""
    remedy = _WRITING.get(error.errno or 0, "check the path, or choose another folder")
    found = error.strerror or str(error)
    return DataError(path, f"room to write {size} bytes", found, remedy)
