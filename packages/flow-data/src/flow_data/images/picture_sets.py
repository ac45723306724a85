"""Published sets of picture files: textures, places, small ImageNets, letters, characters."""

from pathlib import Path

import torch

from flow_data.archives import fetch_archive, visible_files
from flow_data.images.framing import Framing
from flow_data.images.imageset import ImageSet
from flow_data.images.pictures import read_pictures
from flow_data.images.published_pictures import PICTURES, PicturesSource
from flow_data.integrity import DataError, Verification, is_present
from flow_data.lookup import look_up

_SUFFIXES = (".png", ".jpg", ".jpeg")


def load_picture_set(
    name: str,
    root: Path | str,
    size: int,
    *,
    most: int | None = None,
    verify: Verification = "content",
) -> ImageSet:
    """A published set of pictures from its folder below `root`; never touches the network.

    From each picture the largest square is cut from the centre, and resized by Pillow's bilinear
    filter, which averages when it shrinks. Pictures that are known to be broken are left out.

    Args:
        name: `dtd`: textures (`dtd/dtd/images`). `places365`: its small validation images
            (`val_256`). `tinyimagenet`: validation images (`tiny-imagenet-200/val/images`). Of the
            authors of ODIN `imagenet_resize`, `imagenet_crop`, `lsun_resize`, `lsun_crop`, `isun`
            (`Imagenet_resize`, `Imagenet`, `LSUN_resize`, `LSUN`, `iSUN`). `notmnist`: letters
            (`notMNIST_small`). `omniglot`, `omniglot_background`: characters, black on white
            (`omniglot-py/images_evaluation`, `…/images_background`).
        root: Where these folders are.
        size: Height and width of the images.
        most: Only so many, evenly from all of them; the others are not read.
        verify: `"content"` accepts only as many pictures as were published, of which no digests
            were; `"format"` accepts any.

    Returns:
        Images with 3 channels and 256 levels and no labels (-1).

    Raises:
        DataError: The folder is missing; it says what to fetch and where to put it. Or pictures are
            missing or broken: the first few are named and all counted; or Pillow is not installed.
        ValueError: There is no such set, or `size` or `most` is below 1.
    """
    source = look_up(PICTURES, name, "set of pictures")
    if size < 1 or (most is not None and most < 1):
        raise ValueError(f"expected a size and a number of images >= 1, got {size} and {most}")
    folder = Path(root) / source.pictures
    paths = picture_files(source, folder)
    # Anything but the one permissive word keeps the strict check.
    if verify != "format" and len(paths) != source.count:
        remedy = 'fetch it again, or accept another number by verify="format"'
        raise DataError(folder, f"{source.count} pictures", f"{len(paths)}", remedy)
    broken = [folder / picture for picture in source.broken]
    count = len(paths) if most is None else min(most, len(paths))
    chosen = [paths[k * len(paths) // count] for k in range(count)]
    images = read_pictures(folder, chosen, Framing(size=size), left_out=broken)
    return ImageSet(torch.from_numpy(images), torch.full((len(images),), -1), 256, source.name)


def picture_files(source: PicturesSource, folder: Path) -> list[Path]:
    """The pictures of a set in the order of their names.

    Raises:
        DataError: There is no such folder, or no picture in it.
    """
    if not is_present(folder):
        archive = source.archive
        remedy = f"fetch {archive.urls[0]} and unpack it there, or prepare it"
        raise DataError(folder, f"the pictures of {source.name}", "no such folder", remedy)
    paths = [path for path in visible_files(folder) if path.suffix.lower() in _SUFFIXES]
    if not paths:
        remedy = "remove the empty folder and fetch it again"
        raise DataError(folder, f"pictures ({', '.join(_SUFFIXES)})", "none", remedy)
    return paths


def prepare_picture_set(name: str, root: Path | str) -> Path:
    """Fetch and unpack a published set of pictures; what is there is kept.

    Args:
        name: As of `load_picture_set`.
        root: Where its folder comes to be.

    Returns:
        The folder of the archive.

    Raises:
        DataError: As in `flow_data.download`; or a folder of that name holds something else.
        ValueError: There is no such set.
    """
    return fetch_archive(root, look_up(PICTURES, name, "set of pictures").archive)
