"""The .npz format of Chrabaszcz's downsampled ImageNet: `data` channel by channel, and `labels`."""

import math
import zipfile
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy

from flow_data.images.imageset import ImageSet
from flow_data.integrity import DataError, unreadable

_FORMAT = "a .npz file with data, bytes of shape (count, 3 * side * side), and labels"
_REMEDY = "fetch the file again"
_WRONG = "check that this is the right file"


@dataclass(frozen=True)
class NpzShape:
    """How many images a file announces, and of what height and width."""

    count: int
    side: int


def load_npz_images(path: Path | str, *, first_label: int = 0) -> ImageSet:
    """Square colour images from one .npz file with `data` and `labels`; nothing is unpickled.

    Args:
        path: `data` holds bytes of shape `(count, 3 * side * side)`: the red rows, then the green,
            then the blue; `labels` holds `count` integers.
        first_label: What the file calls class 0: 1 in Chrabaszcz's files.

    Returns:
        Images 3xSIDExSIDE with 256 levels, named as the file; labels from 0 on.

    Raises:
        DataError: The file is missing, unreadable, truncated or of another format.
    """
    path = Path(path)
    images, labels = read_npz_images([path], [npz_shape(path)], first_label)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), 256, path.stem)


def npz_shape(path: Path) -> NpzShape:
    """What a file announces, without reading its images.

    Raises:
        DataError: As in `load_npz_images`.
    """
    with _reading(path), zipfile.ZipFile(path) as archive, archive.open("data.npy") as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    side = math.isqrt(shape[-1] // 3) if shape else 0
    if dtype != np.uint8 or len(shape) != 2 or shape[1] != 3 * side**2 or not side:
        raise DataError(path, _FORMAT, f"{dtype} of shape {shape}", _WRONG)
    return NpzShape(shape[0], side)


def read_npz_images(
    paths: Sequence[Path], shapes: Sequence[NpzShape], first_label: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The images of several files one after the other, in memory for them and one file more.

    Args:
        paths: The files, at least one.
        shapes: What they announce, all of one size.
        first_label: What the files call class 0.

    Returns:
        Images of shape `(count, 3, side, side)` and labels from 0 on.

    Raises:
        DataError: As in `load_npz_images`.
    """
    side = shapes[0].side
    ends = np.cumsum([0, *(shape.count for shape in shapes)]).tolist()
    images = np.empty((ends[-1], 3, side, side), dtype=np.uint8)
    labels = np.empty(ends[-1], dtype=np.int64)
    for path, (start, end) in zip(paths, pairwise(ends), strict=True):
        _fill(path, images[start:end], labels[start:end], first_label)
    return images, labels


def _fill(
    path: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], first_label: int
) -> None:
    with _reading(path), np.load(path, allow_pickle=False) as arrays:
        images[...] = arrays["data"].reshape(images.shape)
        given = arrays["labels"]
    if given.shape != labels.shape or given.dtype.kind not in "iu":
        expected = f"{len(labels)} integer labels"
        raise DataError(path, expected, f"{given.dtype} of shape {given.shape}", _WRONG)
    labels[...] = given
    labels -= first_label
    if len(labels) and int(labels.min()) < 0:
        remedy = "check first_label, or fetch the file again"
        raise DataError(path, f"labels from {first_label} on", f"{given.min()}", remedy)


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """What goes wrong with a spoilt archive, as one kind of error."""
    try:
        yield
    except KeyError as error:
        raise DataError(path, _FORMAT, f"{error.args[0]}", _WRONG) from error
    # Zip files raise RuntimeError and NotImplementedError for what they cannot decompress.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise DataError(path, _FORMAT, f"{error}", _REMEDY) from error
    except OSError as error:
        raise unreadable(path, error) from error
