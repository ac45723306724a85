"""MNIST and Fashion-MNIST in the folder layout of torchvision, read without it, offline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from flow_data.download import download
from flow_data.images.idx import IdxArray, read_idx
from flow_data.images.imageset import ImageSet
from flow_data.images.published import FASHION_MNIST, MNIST, Family, PublishedFile
from flow_data.integrity import Checksum, DataError, Verification, is_present


def load_mnist(
    root: Path | str, *, train: bool = True, verify: Verification = "content"
) -> ImageSet:
    """MNIST from `root/MNIST/raw`, uncompressed or `.gz`; never touches the network.

    Args:
        root: The folder that torchvision calls root.
        train: The 60,000 training images, else the 10,000 test images.
        verify: `"content"` accepts only the published data, by md5 of the uncompressed files;
            `"format"` accepts any images and labels of the right format, a derived set for example.

    Returns:
        Images 1x28x28 with 256 levels.

    Raises:
        DataError: A file is missing, unreadable, truncated, of another format or not the data.
    """
    return _load(MNIST, Path(root), train=train, verify=verify)


def load_fashion_mnist(
    root: Path | str, *, train: bool = True, verify: Verification = "content"
) -> ImageSet:
    """Fashion-MNIST from `root/FashionMNIST/raw`; everything else as in `load_mnist`."""
    return _load(FASHION_MNIST, Path(root), train=train, verify=verify)


def download_mnist(root: Path | str, *, mirrors: Sequence[str] = MNIST.mirrors) -> None:
    """Fetch the four published MNIST archives into `root/MNIST/raw`, verified one by one.

    Args:
        root: The folder that torchvision calls root.
        mirrors: Addresses that end in a slash, best first.

    Raises:
        DataError: As in `flow_data.download`.
    """
    _download(MNIST, Path(root), mirrors)


def download_fashion_mnist(
    root: Path | str, *, mirrors: Sequence[str] = FASHION_MNIST.mirrors
) -> None:
    """Fetch the four Fashion-MNIST archives into `root/FashionMNIST/raw`; as `download_mnist`."""
    _download(FASHION_MNIST, Path(root), mirrors)


def _load(family: Family, root: Path, *, train: bool, verify: Verification) -> ImageSet:
    folder = root / family.name / "raw"
    part = family.train if train else family.test
    image_path, label_path = _place(folder, part.images), _place(folder, part.labels)
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if len(images.values) != len(labels.values):
        expected, found = f"{len(images.values)} labels", f"{len(labels.values)}"
        raise DataError(label_path, expected, found, f"fetch it and {image_path.name} again")
    # Anything but the one permissive word keeps the strict check.
    if verify != "format":
        _check_content(image_path, images, (part.count, 28, 28), part.images)
        _check_content(label_path, labels, (part.count,), part.labels)
    return ImageSet(
        source=torch.from_numpy(images.values[:, None]),
        labels=torch.from_numpy(labels.values.astype(np.int64)),
        levels=256,
        name=family.name,
    )


def _place(folder: Path, file: PublishedFile) -> Path:
    raw, compressed = folder / file.stem, folder / f"{file.stem}.gz"
    if is_present(raw):
        return raw
    if is_present(compressed):
        return compressed
    remedy = "give the right root, or fetch the files with download_mnist or its sibling"
    raise DataError(folder, f"{raw.name} or {compressed.name}", "neither", remedy)


def _check_content(
    path: Path, array: IdxArray, shape: tuple[int, ...], published: PublishedFile
) -> None:
    remedy = 'fetch the file again, or accept other data of this format by verify="format"'
    if array.values.shape != shape:
        raise DataError(path, f"shape {shape}", f"{array.values.shape}", remedy)
    checksum = Checksum("md5", published.content)
    if array.checksum != checksum:
        raise DataError(path, f"content with {checksum}", str(array.checksum), remedy)


def _download(family: Family, root: Path, mirrors: Sequence[str]) -> None:
    folder = root / family.name / "raw"
    for part in (family.train, family.test):
        for file in (part.images, part.labels):
            name = f"{file.stem}.gz"
            download(
                [f"{mirror}{name}" for mirror in mirrors],
                folder / name,
                checksum=Checksum("md5", file.archive),
                size=file.archive_size,
            )
