"""What is known about a file before it is trusted: its digest, and one kind of error."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Algorithm = Literal["md5", "sha256"]


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


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that the system does not let us read."""
    remedy = "check that the path is right and that you may read it"
    return DataError(path, "a readable file", error.strerror or str(error), remedy)
