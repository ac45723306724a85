"""CelebA in the folder layout of torchvision, read without it, offline."""

from pathlib import Path
from typing import Literal

import torch

from flow_data.images.framing import Framing
from flow_data.images.imageset import ImageSet
from flow_data.images.pictures import read_pictures
from flow_data.integrity import (
    Checksum,
    DataError,
    Verification,
    is_present,
    require_checksum,
    unreadable,
)
from flow_data.lookup import look_up

CelebaSplit = Literal["train", "valid", "test"]

_PARTITION = "list_eval_partition.txt"
_PARTITION_CONTENT = Checksum("md5", "d32c9cbf5e040fd4025c592c306e6668")
_SPLITS = {"train": "0", "valid": "1", "test": "2"}
_HEIGHT, _WIDTH, _CROP = 218, 178, 148


def load_celeba(
    root: Path | str,
    size: Literal[32, 64, 128] = 64,
    split: CelebaSplit = "train",
    *,
    verify: Verification = "content",
) -> ImageSet:
    """Aligned faces of CelebA from `root/celeba/img_align_celeba`; never touches the network.

    From each picture of 218x178 pixels the central square of 148x148 is cut, as is usual for flows
    and GANs, and resized by Pillow's bilinear filter, which averages when it shrinks. The result
    does not depend on anything random; decoders of JPEG may differ in the last bit.

    Args:
        root: The folder that torchvision calls root; `celeba` in it holds the unpacked pictures and
            `list_eval_partition.txt`. The publisher offers no address for plain downloads.
        size: Height and width of the images.
        split: The 162,770 training, 19,867 validation or 19,962 test images.
        verify: `"content"` accepts only the published partition, by md5; `"format"` accepts any, a
            smaller one for example. All pictures that it lists must be there in both cases; no
            digests of them are published.

    Returns:
        Images 3xSIZExSIZE with 256 levels; no labels (-1).

    Raises:
        DataError: Pictures are missing or broken: the first few are named and all counted; the
            partition is missing or another; or Pillow is not installed.
        ValueError: There is no such size or split.
    """
    if size not in (32, 64, 128):
        raise ValueError(f"expected a size of 32, 64 or 128, got {size}")
    code = look_up(_SPLITS, split, "split")
    folder = Path(root) / "celeba"
    names = _names(folder / _PARTITION, code, verify)
    pictures = folder / "img_align_celeba"
    if not is_present(pictures):
        remedy = "unpack img_align_celeba.zip there"
        raise DataError(folder, f"a folder {pictures.name}", "no such folder", remedy)
    framing = Framing(expected=(_HEIGHT, _WIDTH), square=_CROP, size=size)
    images = read_pictures(pictures, [pictures / name for name in names], framing)
    labels = torch.full((len(images),), -1)
    return ImageSet(torch.from_numpy(images), labels, 256, f"CelebA{size}")


def _names(path: Path, code: str, verify: Verification) -> list[str]:
    # Anything but the one permissive word keeps the strict check.
    if verify != "format":
        remedy = 'fetch the file again, or accept another partition by verify="format"'
        require_checksum(path, _PARTITION_CONTENT, remedy)
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as error:
        raise unreadable(path, error) from error
    names = [name for name, part in (_entry(path, line) for line in lines) if part == code]
    if not names:
        raise DataError(path, f"pictures of part {code}", "none", "fetch the file again")
    return names


def _entry(path: Path, line: str) -> tuple[str, str]:
    match line.split():
        case [name, part] if Path(name).name == name and part in _SPLITS.values():
            return name, part
        case _:
            expected = "in each line the name of a picture, and 0, 1 or 2"
            raise DataError(path, expected, repr(line), "fetch the file again")
