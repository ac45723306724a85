"""Random changes of integer images while training: bytes in, bytes out, nothing interpolated.

Each function is pure: images and the state of the generator decide the result. Numbers are drawn on
the device of the generator, so a generator on the CPU gives the same result on every device. Of a
batch that several processes share, each changes its own images as if it had them all.
"""

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from flow_data.batches import Images
from flow_data.sharing import WHOLE, Share

Edge = Literal["reflect", "replicate"]


def random_flip(images: Images, generator: torch.Generator, share: Share = WHOLE) -> Images:
    """Mirror each image left to right with probability 1/2.

    Args:
        images: Any number of images.
        generator: Decides which.
        share: Which part of a batch these images are.
    """
    draw = torch.rand(len(images) * share.count, generator=generator, device=generator.device)
    flipped = (share.of(draw) < 0.5).to(images.device)[:, None, None, None]
    return torch.where(flipped, images.flip(-1), images)


def random_shift(
    images: Images,
    pixels: int,
    generator: torch.Generator,
    mode: Edge = "reflect",
    share: Share = WHOLE,
) -> Images:
    """Shift each image by up to `pixels` in both directions, uniformly over all whole shifts.

    The same as padding by `pixels` on every side and cropping the original size at random.

    Args:
        images: Any number of images.
        pixels: Largest shift; 0 changes nothing.
        generator: Draws the vertical shifts, then the horizontal ones.
        mode: What comes in from outside: `"reflect"` mirrors at the border pixel, which is not
            repeated; `"replicate"` repeats the border pixel.
        share: Which part of a batch these images are.

    Raises:
        ValueError: `pixels` is negative, or too large for the mirror image.
    """
    height, width = images.shape[-2:]
    if pixels < 0 or (mode == "reflect" and pixels >= min(height, width)):
        raise ValueError(
            f"expected a shift of >= 0 and less than the {height}x{width} pixels of the images, "
            f"got {pixels}"
        )
    count = len(images) * share.count
    rows = share.of(_sources(height, count, pixels, generator, mode)).to(images.device)
    columns = share.of(_sources(width, count, pixels, generator, mode)).to(images.device)
    shifted = images.gather(2, rows[:, None, :, None].expand_as(images))
    return shifted.gather(3, columns[:, None, None, :].expand_as(images))


def augment_mnist(images: Images, generator: torch.Generator, share: Share = WHOLE) -> Images:
    """Pad by one reflected pixel and crop the original size at random.

    The augmentation of Self Normalizing Flows (Keller et al. 2021) for MNIST.
    """
    return random_shift(images, 1, generator, "reflect", share)


def augment_cifar(images: Images, generator: torch.Generator, share: Share = WHOLE) -> Images:
    """Flip left to right with probability 1/2, then shift by up to 4 % with repeated edges.

    The augmentation of Self Normalizing Flows (Keller et al. 2021) for CIFAR-10. Its two flips,
    before and after the shift, are one flip in law; its shifts, rounded from real numbers, take the
    same values (one pixel at most at 32x32) with probabilities that differ by 0.014 at most.
    """
    pixels = round(0.04 * max(images.shape[-2:]))
    flipped = random_flip(images, generator, share)
    return random_shift(flipped, pixels, generator, "replicate", share)


def augment_crops(images: Images, generator: torch.Generator, share: Share = WHOLE) -> Images:
    """Pad by four reflected pixels, crop the original size at random, flip with probability 1/2.

    The augmentation of classifiers of CIFAR-10, with the padding of Residual Flows (Chen et al.
    2019).
    """
    cropped = random_shift(images, 4, generator, "reflect", share)
    return random_flip(cropped, generator, share)


def _sources(
    length: int, count: int, pixels: int, generator: torch.Generator, mode: Edge
) -> Int[Tensor, "count length"]:
    """From which row or column each one of the shifted images comes."""
    device = generator.device
    shifts = torch.randint(-pixels, pixels + 1, (count, 1), generator=generator, device=device)
    positions = torch.arange(length, device=device) + shifts
    if mode == "replicate":
        return positions.clamp(0, length - 1)
    return (length - 1) - ((length - 1) - positions.abs()).abs()
