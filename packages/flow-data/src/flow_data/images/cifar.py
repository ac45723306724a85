"""CIFAR-10 and CIFAR-100 in the folder layout of torchvision, read without it, offline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from flow_data.download import download
from flow_data.images.imageset import ImageSet
from flow_data.images.pickles import ByteArray, read_pickle
from flow_data.images.published_cifar import CIFAR10, CIFAR100, CifarArchive, CifarFile
from flow_data.integrity import (
    Checksum,
    DataError,
    Verification,
    bytes_checksum,
    is_present,
    require_checksum,
    unreadable,
)
from flow_data.unpack import unpack

_VALUES = 3 * 32 * 32
_LARGEST = 2**28


def load_cifar10(
    root: Path | str, *, train: bool = True, verify: Verification = "content"
) -> ImageSet:
    """CIFAR-10 from `root/cifar-10-batches-py`; never touches the network.

    The files are pickles. Their md5 is compared before anything in them is looked at, and they are
    read without running what a pickle may ask for, see `flow_data.images.pickles`.

    Args:
        root: The folder that torchvision calls root.
        train: The 50,000 training images, else the 10,000 test images.
        verify: `"content"` accepts only the published files, by md5; `"format"` accepts any images
            and labels of the right format, a derived set for example.

    Returns:
        Images 3x32x32 with 256 levels; labels in 0..9.

    Raises:
        DataError: A file is missing, unreadable, truncated, of another format, asks for code to be
            run or is not the data.
    """
    return _load(CIFAR10, Path(root), train=train, verify=verify)


def load_cifar100(
    root: Path | str, *, train: bool = True, verify: Verification = "content"
) -> ImageSet:
    """CIFAR-100 from `root/cifar-100-python` with its 100 fine labels; else as `load_cifar10`."""
    return _load(CIFAR100, Path(root), train=train, verify=verify)


def download_cifar10(root: Path | str, *, mirrors: Sequence[str] = CIFAR10.mirrors) -> None:
    """Fetch the published CIFAR-10 archive into `root`, verify and unpack it.

    The archive stays there. A folder that is there already is verified and kept; a new one appears
    under its name whole or not at all.

    Args:
        root: The folder that torchvision calls root.
        mirrors: Addresses that end in a slash, best first.

    Raises:
        DataError: As in `flow_data.download`; or a folder of that name holds something else.
    """
    _download(CIFAR10, Path(root), mirrors)


def download_cifar100(root: Path | str, *, mirrors: Sequence[str] = CIFAR100.mirrors) -> None:
    """Fetch the published CIFAR-100 archive into `root`; as `download_cifar10`."""
    _download(CIFAR100, Path(root), mirrors)


def _load(archive: CifarArchive, root: Path, *, train: bool, verify: Verification) -> ImageSet:
    folder = root / archive.folder
    files = archive.train if train else archive.test
    parts = [_read(archive, folder, file, verify) for file in files]
    return ImageSet(
        source=torch.from_numpy(np.concatenate([images for images, _ in parts])),
        labels=torch.from_numpy(np.concatenate([labels for _, labels in parts])),
        levels=256,
        name=archive.name,
    )


def _read(
    archive: CifarArchive, folder: Path, file: CifarFile, verify: Verification
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    path = folder / file.name
    content = _content(path)
    # Anything but the one permissive word keeps the strict check.
    if verify != "format":
        _check_content(path, content, file)
    batch = read_pickle(path, content)
    images = _images(path, batch.get("data"))
    labels = _labels(path, batch.get(archive.label_key), archive)
    if len(images) != len(labels):
        raise DataError(path, f"{len(images)} labels", f"{len(labels)}", "fetch the file again")
    return images, labels


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except FileNotFoundError as error:
        remedy = "give the right root, or fetch the files with download_cifar10 or its sibling"
        raise DataError(path.parent, path.name, "no such file", remedy) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > _LARGEST:
        raise DataError(path, f"at most {_LARGEST} bytes", "more", "fetch the file again")
    return content


def _check_content(path: Path, content: bytes, file: CifarFile) -> None:
    checksum, found = Checksum("md5", file.content), bytes_checksum([content], "md5")
    if found != checksum:
        # Every pickle ends in a full stop.
        cut = "" if content.endswith(b".") else f", the file is truncated at {len(content)} bytes"
        remedy = 'fetch the file again, or accept other data of this format by verify="format"'
        raise DataError(path, f"content with {checksum}", f"{found}{cut}", remedy)


def _images(path: Path, data: object) -> npt.NDArray[np.uint8]:
    found = data.values.shape if isinstance(data, ByteArray) else type(data).__name__
    if not isinstance(data, ByteArray) or data.values.shape[1:] != (_VALUES,):
        expected = f"under 'data', a byte array of shape (count, {_VALUES})"
        raise DataError(path, expected, f"{found}", "check that this is the right file")
    return data.values.reshape(-1, 3, 32, 32)


def _labels(path: Path, labels: object, archive: CifarArchive) -> npt.NDArray[np.int64]:
    expected = f"under {archive.label_key!r}, a list of integers in 0..{archive.classes - 1}"
    if not isinstance(labels, list):
        found, remedy = type(labels).__name__, "check that this is the right file"
        raise DataError(path, expected, found, remedy)
    for label in labels:
        if not isinstance(label, int) or not 0 <= label < archive.classes:
            raise DataError(path, expected, f"{label!r} in it", "fetch the file again")
    return np.array(labels, dtype=np.int64)


def _download(archive: CifarArchive, root: Path, mirrors: Sequence[str]) -> None:
    folder = root / archive.folder

    def check(present: Path) -> None:
        for file in (*archive.train, *archive.test, archive.meta):
            remedy = f"move {folder} away and download again; nothing was overwritten"
            require_checksum(present / file.name, Checksum("md5", file.content), remedy)

    if is_present(folder):
        check(folder)
        return
    path = download(
        [f"{mirror}{archive.archive}" for mirror in mirrors],
        root / archive.archive,
        checksum=Checksum("md5", archive.archive_content),
        size=archive.archive_size,
        room=archive.unpacked_size,
    )
    unpack(path, folder, limit=archive.unpacked_size, check=check)
