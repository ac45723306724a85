"""The IDX format of the MNIST family: big-endian header, then unsigned bytes.

Header: two zero bytes, the type (8 for unsigned bytes), the number of dimensions, then one 32-bit
size for each dimension.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flow_data.integrity import Checksum, DataError, bytes_checksum, unreadable

_REMEDY = "fetch the file again"
_LARGEST = 2**31


@dataclass(frozen=True)
class IdxArray:
    """The content of an IDX file.

    Attributes:
        values: The array, writable.
        checksum: md5 of the uncompressed file.
    """

    values: npt.NDArray[np.uint8]
    checksum: Checksum


def read_idx(path: Path, ndim: int) -> IdxArray:
    """Read an IDX file of unsigned bytes, gzip-compressed if its name ends in `.gz`.

    No more than the header announces is ever decompressed.

    Args:
        path: The file.
        ndim: Number of dimensions that it must have.

    Raises:
        DataError: The file cannot be read, is not IDX of that kind, is truncated or too long.
    """
    try:
        with _open(path) as stream:
            header = stream.read(4 + 4 * ndim)
            shape = _shape(path, header, ndim)
            size = math.prod(shape)
            body = stream.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, "a whole gzip file", str(error), _REMEDY) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if len(body) != size:
        found = f"{len(body)}, the file is truncated" if len(body) < size else "more"
        raise DataError(path, f"{size} bytes after the header", found, _REMEDY)
    values = np.frombuffer(body, dtype=np.uint8).reshape(shape).copy()
    return IdxArray(values, bytes_checksum((header, body), "md5"))


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _shape(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    magic = bytes([0, 0, 8, ndim])
    if header[:4] != magic:
        expected = (
            f"an IDX file of unsigned bytes in {ndim} dimensions (it begins with {magic.hex()})"
        )
        found = f"a file that begins with {header[:4].hex() or 'nothing'}"
        raise DataError(path, expected, found, "check that this is the right file")
    if len(header) != 4 + 4 * ndim:
        raise DataError(path, f"{ndim} sizes in the header", "a truncated header", _REMEDY)
    shape = struct.unpack(f">{ndim}I", header[4:])
    if math.prod(shape) > _LARGEST:
        raise DataError(path, f"at most {_LARGEST} bytes", f"shape {shape}", _REMEDY)
    return shape
