"""Integer images as a model of other images takes them: channels, size and levels."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from flow_data.images.imageset import ImageSet

# Of red, green and blue in brightness: ITU-R BT.601, as Pillow has it.
_BRIGHTNESS = (0.299, 0.587, 0.114)


def fitted(images: ImageSet, shape: tuple[int, int, int], levels: int = 256) -> ImageSet:
    """The same images as integers of another shape.

    Colour becomes brightness for one channel, and grey is repeated for three. The size changes by a
    bilinear filter that averages when it shrinks, rounded to integers. Fewer levels are
    floor(x levels / old), as in `ImageSet.with_bits`; more are spread from 0 to the last.

    Args:
        images: Any set; its name and labels stay.
        shape: Channels, height and width.
        levels: Values that a pixel can take.

    Raises:
        ValueError: The channels can be turned into no such number.
    """
    found = resized(_with_channels(images.images, shape[0]), shape[1:])
    found = _with_levels(found, images.levels, levels)
    return ImageSet(found, images.labels, levels, images.name)


def in_grey(images: ImageSet) -> ImageSet:
    """The brightness of colour images, in one channel."""
    grey = _with_channels(images.images, 1)
    return ImageSet(grey, images.labels, images.levels, f"{images.name}-grey")


def resized(
    images: UInt8[Tensor, "count channels height width"], size: tuple[int, int]
) -> UInt8[Tensor, "count channels new_height new_width"]:
    """Integers by a bilinear filter that averages when it shrinks; unchanged at their own size."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    real = interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return real.round().clamp(0, 255).to(torch.uint8)


def _with_channels(images: Tensor, channels: int) -> Tensor:
    found = images.shape[1]
    if found == channels:
        return images
    if found == 1:
        return images.repeat(1, channels, 1, 1)
    if (found, channels) == (3, 1):
        weights = torch.tensor(_BRIGHTNESS).view(1, 3, 1, 1)
        return (images * weights).sum(1, keepdim=True).round().clamp(0, 255).to(torch.uint8)
    raise ValueError(f"expected images of {channels} channels, or of 1 or 3, got {found}")


def _with_levels(images: Tensor, old: int, new: int) -> Tensor:
    if old == new:
        return images
    wide = images.long()
    if new < old:
        return (wide * new // old).to(torch.uint8)
    return (wide * (new - 1) / (old - 1)).round().to(torch.uint8)
