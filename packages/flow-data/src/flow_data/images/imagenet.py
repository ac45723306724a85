"""ImageNet at 32x32 and 64x64 pixels, in its two incompatible variants, offline."""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy

from flow_data.images.folder import picture_paths
from flow_data.images.framing import Framing
from flow_data.images.imageset import ImageSet
from flow_data.images.npz import NpzShape, npz_shape, read_npz_images
from flow_data.images.pictures import read_pictures
from flow_data.images.published_imagenet import CHRABASZCZ, CHRABASZCZ_COUNTS, PIXELRNN_COUNTS
from flow_data.integrity import (
    Checksum,
    DataError,
    Verification,
    is_present,
    require_checksum,
    unreadable,
)
from flow_data.lookup import look_up

Variant = Literal["pixelrnn", "chrabaszcz"]

_CLASSES = 1000
_OTHER = 'or accept other data of this format by verify="format"'


def load_imagenet(
    root: Path | str,
    size: Literal[32, 64] = 32,
    variant: Variant = "pixelrnn",
    *,
    train: bool = True,
    verify: Verification = "content",
) -> ImageSet:
    """Downsampled ImageNet from files in `root`; never touches the network.

    There are two sets of that name, shrunk by different filters. Flows need fewer bits per
    dimension for the second, so their figures are not comparable: the name of the result says which
    it is, for a run to record.

    * `"pixelrnn"` (van den Oord et al. 2016), the set of nearly all published figures of flows:
      `{train,valid}_{32x32,64x64}.npy`, bytes of shape `(count, size, size, 3)` or flattened from
      that, mapped from the file and not read into memory; or a folder of PNG files,
      `{train,valid}_{32x32,64x64}/`. No labels (-1).
    * `"chrabaszcz"` (Chrabaszcz et al. 2017): `train_data_batch_{1..10}.npz` and `val_data.npz`, in
      the format of `load_npz_images`. Labels 1..1000, in an order of their own, become 0..999.

    Args:
        root: The folder that holds these files.
        size: Height and width.
        variant: Which of the two sets.
        train: The 1,281,149 (`"chrabaszcz"`: 1,281,167) training images, else the 49,999 (50,000)
            validation images, on which results are reported.
        verify: `"content"` requires these numbers of images, and the md5 of the files where they
            are published: those of `"chrabaszcz"` at 32x32; `"format"` accepts any number of images
            and of training files, a subset for example.

    Returns:
        Images 3xSIZExSIZE with 256 levels, named `ImageNet32-pixelrnn` for example.

    Raises:
        DataError: A file is missing, unreadable, truncated, of another format, size or variant, or
            not the data.
        ValueError: There is no such size or variant.
    """
    if size not in (32, 64):
        raise ValueError(f"expected a size of 32 or 64, got {size}")
    loaders = {"pixelrnn": _load_pixelrnn, "chrabaszcz": _load_chrabaszcz}
    load = look_up(loaders, variant, "variant of ImageNet")
    # Anything but the one permissive word keeps the strict check.
    images, labels = load(Path(root), size, train, verify != "format")
    name = f"ImageNet{size}-{variant}"
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), 256, name)


Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def _load_pixelrnn(root: Path, size: int, train: bool, strict: bool) -> Arrays:
    stem = f"{'train' if train else 'valid'}_{size}x{size}"
    array, folder = root / f"{stem}.npy", root / stem
    count = PIXELRNN_COUNTS[train] if strict else None
    if is_present(array):
        images = _mapped(array, size, count)
    elif is_present(folder):
        images = _decoded(folder, size, count)
    else:
        raise _missing(root, f"{array.name} or a folder {stem} of PNG files", "*_data*.npz")
    return images, np.full(len(images), -1, dtype=np.int64)


def _mapped(path: Path, size: int, count: int | None) -> npt.NDArray[np.uint8]:
    try:
        # Copy on write: the file stays as it is, and torch gets memory that it may write to.
        array = npy.open_memmap(path, mode="c")
    except ValueError as error:
        raise DataError(path, "a whole .npy file", f"{error}", "fetch the file again") from error
    except OSError as error:
        raise unreadable(path, error) from error
    shape = (size, size, 3)
    if array.dtype != np.uint8 or array.shape[1:] not in (shape, (size * size * 3,)):
        expected = f"bytes of shape (count, {size}, {size}, 3) or flattened from that"
        found = f"{array.dtype} of shape {array.shape}"
        raise DataError(path, expected, found, "check that this is the right file")
    _require_count(path, len(array), count)
    images: npt.NDArray[np.uint8] = array.reshape(-1, *shape).transpose(0, 3, 1, 2)
    return images


def _decoded(folder: Path, size: int, count: int | None) -> npt.NDArray[np.uint8]:
    paths = picture_paths(folder)
    _require_count(folder, len(paths), count)
    return read_pictures(folder, paths, Framing(expected=(size, size)))


def _load_chrabaszcz(root: Path, size: int, train: bool, strict: bool) -> Arrays:
    paths = _chrabaszcz_files(root, train, strict)
    # What the headers say takes no time, digests of gigabytes do.
    shapes = [_shape_of_size(path, size) for path in paths]
    _require_count(
        root, sum(shape.count for shape in shapes), CHRABASZCZ_COUNTS[train] if strict else None
    )
    if strict and size == 32:
        for path in paths:
            checksum = Checksum("md5", CHRABASZCZ[train][path.name])
            require_checksum(path, checksum, f"fetch the file again, {_OTHER}")
    images, labels = read_npz_images(paths, shapes, first_label=1)
    if len(labels) and int(labels.max()) >= _CLASSES:
        found = f"{int(labels.max()) + 1}"
        raise DataError(root, f"labels in 1..{_CLASSES}", found, "fetch the files again")
    return images, labels


def _chrabaszcz_files(root: Path, train: bool, strict: bool) -> list[Path]:
    there = {name: is_present(root / name) for name in CHRABASZCZ[train]}
    absent = [name for name, present in there.items() if not present]
    if (absent and strict) or not any(there.values()):
        raise _missing(root, ", ".join(absent), "*_*x*")
    return [root / name for name, present in there.items() if present]


def _shape_of_size(path: Path, size: int) -> NpzShape:
    shape = npz_shape(path)
    if shape.side != size:
        remedy = "ask for the size that this file has, or give another root"
        found = f"{shape.side}x{shape.side}"
        raise DataError(path, f"images of {size}x{size} pixels", found, remedy)
    return shape


def _require_count(path: Path, found: int, count: int | None) -> None:
    if count is not None and found != count:
        remedy = f"check the variant, fetch the data again, {_OTHER}"
        raise DataError(path, f"{count} images", f"{found}", remedy)


def _missing(root: Path, expected: str, other: str) -> DataError:
    """The files of one variant are not there; perhaps those of the other are."""
    others = sorted(path.name for path in root.glob(other))
    if others:
        remedy = "ask for the other variant, whose figures are not comparable, or give another root"
        return DataError(root, expected, f"files of the other variant ({others[0]})", remedy)
    return DataError(root, expected, "no such file", "give the right root, or fetch the data first")
