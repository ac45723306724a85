"""Pixels taken together in blocks: fewer and larger steps for few channels.

A padded convolution on C channels is one on ph·pw·C channels of an image of blocks, whose corner
tap couples the pixels of a block: block lower triangular, with the corner of the kernel on its
diagonal. Blocks of one row make it block Toeplitz row by row.
"""

from functools import cache
from math import ceil
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_NUMBERS = 48
# Of those that take as many products, the first: squares need the fewest multiplications.
_SHAPES = ((4, 4), (2, 8), (8, 2), (1, 16), (2, 4), (4, 2), (1, 8), (2, 2), (1, 4), (1, 2), (1, 1))


def block_shape(channels: int, image: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the blocks of at most 48 numbers that take the fewest matrix products."""
    fitting = [s for s in _SHAPES if s[0] * s[1] * channels <= _NUMBERS] or [(1, 1)]
    return min(fitting, key=lambda shape: _products(shape, image, kernel))


def _products(shape: tuple[int, int], image: tuple[int, int], kernel: tuple[int, int]) -> int:
    """One for every anti-diagonal of blocks and every row of blocks that it reads."""
    rows, columns = (ceil(size / side) for size, side in zip(image, shape, strict=True))
    return (rows + columns - 1) * _reach(kernel[0], shape[0])


def _reach(kernel: int, side: int) -> int:
    """How many blocks the taps of a kernel touch along one axis."""
    return (kernel + side - 2) // side + 1


class Recursion(NamedTuple):
    """z(p) = first · x(p) - Σ taps · z(pixels before p), for blocks of pixels.

    Attributes:
        first: Inverse of the corner tap, transposed, to multiply from the right.
        taps: For every row above, the taps of its columns from left to right below each other.
    """

    first: Float[Tensor, "*groups size size"]
    taps: Float[Tensor, "*groups rows inputs size"]


def recursion(
    kernel: Float[Tensor, "*groups channels channels height width"],
    shape: tuple[int, int],
    *,
    upper: bool,
) -> Recursion:
    """What solves the convolution with a kernel, whose corner is lower or `upper` triangular."""
    *groups, channels, _, height, width = kernel.shape
    index = _index((height, width), shape, kernel.device)
    rows, columns, pixels, _ = index.shape
    if upper:  # lower triangular with the channels in reverse
        kernel = kernel.flip(-4, -3)
    none = kernel.new_zeros(*groups, 1, channels, channels)
    taps = torch.cat((kernel.flatten(-2).movedim(-1, -3), none), -3)
    together = pixels * channels
    blocks = taps[..., index, :, :].transpose(-3, -2)
    blocks = blocks.reshape(*groups, rows, columns, together, together)
    unit = torch.eye(together, dtype=kernel.dtype, device=kernel.device)
    inverse = torch.linalg.solve_triangular(blocks[..., 0, 0, :, :], unit, upper=False)
    solved = inverse[..., None, None, :, :] @ blocks
    if upper:
        inverse, solved = _reversed(inverse, channels), _reversed(solved, channels)
    right = solved.mT.flip(-3)
    return Recursion(inverse.mT, right.reshape(*groups, rows, columns * together, together))


@cache
def _index(
    size: tuple[int, int], shape: tuple[int, int], device: torch.device
) -> Int[Tensor, "rows columns out_pixels in_pixels"]:
    """Which tap of the kernel a pixel of a block applies to one of a block above or to the left.

    kh·kw stands for none. Kept on the device: a copy from the host would wait for it, and could not
    be captured in a CUDA graph.
    """
    (kh, kw), (ph, pw) = size, shape
    rows, columns = _reach(kh, ph), _reach(kw, pw)
    index = torch.full((rows, columns, ph * pw, ph * pw), kh * kw)
    for y, x, up, left in torch.cartesian_prod(*map(torch.arange, (ph, pw, kh, kw))).tolist():
        row, column = y - up, x - left
        place = -(row // ph), -(column // pw), y * pw + x, row % ph * pw + column % pw
        index[place] = (kh - 1 - up) * kw + kw - 1 - left
    return index.to(device)


def _reversed(matrix: Tensor, channels: int) -> Tensor:
    """Channels in reverse on both sides, pixels as they are."""
    *leading, size, _ = matrix.shape
    pixels = size // channels
    split = matrix.reshape(*leading, pixels, channels, pixels, channels)
    return split.flip(-1, -3).reshape(matrix.shape)
