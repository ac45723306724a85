"""Downloads that leave either the whole verified file or nothing."""

import hashlib
import http.client
import shutil
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from flow_data.integrity import Checksum, DataError, file_checksum, unwritable
from flow_data.whole_file import whole_file

_PIECE = 1 << 16


class _MirrorFailure(Exception):
    """One address did not deliver the file; the next may."""


def download(
    urls: Sequence[str],
    destination: Path,
    *,
    checksum: Checksum | None,
    size: int | range,
    room: int = 0,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file from the first address that delivers it whole.

    The bytes go to a temporary file in the folder of `destination`, are checked, flushed to disk
    and only then given the final name; a process that dies on the way leaves no final file. A file
    that is already there with the right digest is kept, without use of the network.

    Args:
        urls: Addresses of the same file, best first.
        destination: Final name; its folder is created.
        checksum: Digest that the file must have; None where nobody published one: then only its
            size is compared, and a file that is there already is kept.
        size: Bytes that the file must have, or a range of them where that is all that is known;
            nothing beyond is read.
        room: Bytes that must be free besides, for what is made of the file.
        timeout: Seconds of silence after which an address is given up.

    Returns:
        `destination`.

    Raises:
        DataError: No address delivered the file, another file has its name, or the disk refused it.
    """
    if destination.exists():
        return _keep(destination, checksum)
    sizes = range(size, size + 1) if isinstance(size, int) else size
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        require_room(destination.parent, sizes[-1] + room)
        _from_first(urls, destination, checksum, sizes, timeout)
    except OSError as error:
        raise unwritable(destination, sizes[-1], error) from error
    return destination


def require_room(folder: Path, size: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        DataError: The disk of that folder has fewer than `size` bytes free.
        OSError: The folder does not exist.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        remedy = "free some space, or choose another folder"
        raise DataError(folder, f"{size} free bytes", f"{free}", remedy)


def _keep(destination: Path, checksum: Checksum | None) -> Path:
    if checksum is None:
        return destination
    present = file_checksum(destination, checksum.algorithm)
    if present != checksum:
        remedy = "move that file away and download again; nothing was overwritten"
        raise DataError(destination, str(checksum), str(present), remedy)
    return destination


def _from_first(
    urls: Sequence[str], destination: Path, checksum: Checksum | None, sizes: range, timeout: float
) -> None:
    failures: list[str] = []
    for url in urls:
        try:
            _from_one(url, destination, checksum, sizes, timeout)
        except _MirrorFailure as failure:
            failures.append(f"{url}: {failure}")
        else:
            return
    remedy = "check the network, or put the file there yourself"
    expected = f"{_in_words(sizes)} bytes" + ("" if checksum is None else f" of {checksum}")
    raise DataError(destination, expected, " | ".join(failures), remedy)


def _from_one(
    url: str, destination: Path, checksum: Checksum | None, sizes: range, timeout: float
) -> None:
    with whole_file(destination) as stream:
        received = _receive(url, stream, checksum, sizes, timeout)
        if checksum is not None and received != checksum:
            raise _MirrorFailure(f"content has {received}")


def _receive(
    url: str, stream: BinaryIO, checksum: Checksum | None, sizes: range, timeout: float
) -> Checksum:
    algorithm = "sha256" if checksum is None else checksum.algorithm
    digest = hashlib.new(algorithm, usedforsecurity=False)
    received = 0
    response = _open(url, timeout)
    with response:
        while piece := _read(response, sizes.stop - received):
            received += len(piece)
            digest.update(piece)
            stream.write(piece)
    if received not in sizes:
        came = f"{received} bytes" if received < sizes.start else "more"
        raise _MirrorFailure(f"expected {_in_words(sizes)} bytes, got {came}")
    return Checksum(algorithm, digest.hexdigest())


def _open(url: str, timeout: float) -> http.client.HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise _MirrorFailure("expected an http or https address")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(url, timeout=timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _MirrorFailure(str(error)) from error
    return response


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    try:
        return response.read(min(_PIECE, limit))
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorFailure(f"broke off: {error}") from error


def _in_words(sizes: range) -> str:
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
