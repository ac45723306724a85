"""Folders of pictures in the layout of torchvision's ImageFolder."""

from collections.abc import Sequence
from pathlib import Path

import torch

from flow_data.images.framing import Framing
from flow_data.images.imageset import ImageSet
from flow_data.images.pictures import first_shape, read_pictures
from flow_data.integrity import DataError, unreadable

_SUFFIXES = (".png", ".jpg", ".jpeg")


def load_image_folder(
    root: Path | str, size: int | None = None, *, classes: Sequence[str] | None = None
) -> ImageSet:
    """Pictures in one folder for each class: `root/CLASS/**/*.png`, `.jpg` or `.jpeg`.

    Classes are numbered in the order of their names, and pictures come in the order of theirs.
    JPEG changes pixels: bits per dimension of such images are not comparable with those of the
    images that they were made of.

    Args:
        root: The folder of the classes.
        size: Cut the largest square from the centre and resize it to that height and width, by
            Pillow's bilinear filter, which averages when it shrinks. Without, all pictures must
            have one size.
        classes: Names of the classes in the order of their numbers, for a part of a set that may
            lack some; a folder of another name has the label -1. Without, they are the folders.

    Returns:
        Images with 3 channels and 256 levels, named as the folder.

    Raises:
        DataError: There are no classes, a class has no pictures, pictures are missing or broken, or
            Pillow is not installed.
        ValueError: `size` is below 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"expected a size >= 1, got {size}")
    root = Path(root)
    names = image_classes(root)
    pictures = [picture_paths(root / name) for name in names]
    paths = [path for of_class in pictures for path in of_class]
    framing = Framing(expected=first_shape(paths[0])) if size is None else Framing(size=size)
    counts = torch.tensor([len(of_class) for of_class in pictures])
    numbers = {name: number for number, name in enumerate(names if classes is None else classes)}
    return ImageSet(
        source=torch.from_numpy(read_pictures(root, paths, framing)),
        labels=torch.tensor([numbers.get(name, -1) for name in names]).repeat_interleave(counts),
        levels=256,
        name=root.resolve().name,
    )


def picture_paths(folder: Path) -> list[Path]:
    """The pictures in a folder and the folders in it, in the order of their names.

    Raises:
        DataError: There are none, or the folder cannot be read.
    """
    try:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise unreadable(folder, error) from error
    if not paths:
        remedy = "give the right root, or remove the empty folder"
        raise DataError(folder, f"pictures ({', '.join(_SUFFIXES)})", "none", remedy)
    return paths


def image_classes(root: Path) -> list[str]:
    """The names of the classes in a folder, in their order.

    Raises:
        DataError: There are none, or the folder cannot be read.
    """
    try:
        folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise unreadable(root, error) from error
    if not folders:
        remedy = "give the folder that holds the folders of the classes"
        raise DataError(root, "a folder for each class", "none", remedy)
    return folders
