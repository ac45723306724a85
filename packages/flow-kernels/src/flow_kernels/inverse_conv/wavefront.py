"""Solving a padded convolution: all blocks on one anti-diagonal at once.

Blocks are kept as row h, image, column w, numbers, and a row is longer than its images by one
block. So from a block to the next of its diagonal, a row down and a column back, is as far as over
all images: the blocks of a diagonal, of all images, are the rows of one matrix with a stride. What
a block reads in one row above lies side by side, so that a diagonal takes one matrix product per
row of the kernel and nothing is gathered or copied.
"""

from math import ceil
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from flow_kernels.inverse_conv.blocks import Recursion, block_shape, recursion


def solve_canonical(
    x: Float[Tensor, "batch channels height width"],
    kernel: Float[Tensor, "channels channels kernel_height kernel_width"],
    *,
    upper: bool,
) -> Float[Tensor, "batch channels height width"]:
    """z with T z = x for the convolution that is padded above and to the left.

    The corner tap is lower triangular, or `upper` triangular.
    """
    _, channels, height, width = x.shape
    shape = block_shape(channels, (height, width), (kernel.shape[2], kernel.shape[3]))
    steps = recursion(kernel, shape, upper=upper)
    rows, columns = ceil(height / shape[0]), ceil(width / shape[1])
    below, right = rows * shape[0] - height, columns * shape[1] - width
    if below or right:  # what is added there is read by nothing that is kept
        x = torch.nn.functional.pad(x, (0, right, 0, below))
    buffer = _Diagonals(_first_part(x, steps.first, shape), steps)
    for diagonal in range(rows + columns - 1):
        buffer.step(diagonal)
    return _images(buffer.blocks(), shape)[:, :, :height, :width].contiguous()


def _first_part(
    x: Float[Tensor, "batch channels height width"],
    first: Float[Tensor, "size size"],
    shape: tuple[int, int],
) -> Float[Tensor, "rows batch columns size"]:
    """first · x for every block."""
    batch, channels, height, width = x.shape
    ph, pw = shape
    if shape == (1, 1):  # the product itself brings the channels to the end
        product = x.reshape(batch, channels, height * width).mT @ first
        return product.view(batch, height, width, channels).transpose(0, 1)
    # Transposing first and taking blocks afterwards moves whole pixels in the second step.
    pixels = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    blocks = pixels.reshape(batch, height // ph, ph, width // pw, pw, channels)
    return blocks.permute(1, 0, 3, 2, 4, 5).flatten(3) @ first


def _images(
    blocks: Float[Tensor, "rows batch columns size"], shape: tuple[int, int]
) -> Float[Tensor, "batch channels height width"]:
    rows, batch, columns, size = blocks.shape
    ph, pw = shape
    split = blocks.view(rows, batch, columns, ph, pw, size // (ph * pw))
    pixels = split.permute(1, 0, 3, 2, 4, 5).reshape(batch, rows * ph, columns * pw, split.shape[5])
    return pixels.permute(0, 3, 1, 2)


@final
class _Diagonals:
    """The buffer, which holds first · x where z is not known yet.

    Rows above and columns before those of the images are zero.
    """

    def __init__(self, start: Float[Tensor, "rows batch columns size"], steps: Recursion) -> None:
        self._rows, self._batch, self._columns, self._size = start.shape
        reach, above = steps.taps.shape[1] // self._size, len(steps.taps) - 1
        before = (reach - 1) * self._size
        self._image = before + self._columns * self._size
        self._row = self._batch * self._image + self._size
        self._data = start.new_zeros((self._rows + above) * self._row)
        self._origin = above * self._row + before
        # Of its own row a block reads the columns before it, of those above its own too.
        self._taps = [(t, up * self._row + before) for up, t in enumerate(steps.taps.unbind())]
        self._taps[0] = (self._taps[0][0][: -self._size], before)
        self.blocks().copy_(start)

    def blocks(self) -> Float[Tensor, "rows batch columns size"]:
        """The blocks of the images, as a view."""
        strides = (self._row, self._image, self._size, 1)
        sizes = (self._rows, self._batch, self._columns, self._size)
        return self._data.as_strided(sizes, strides, self._origin)

    def step(self, diagonal: int) -> None:
        """Subtract from one diagonal what those before it contribute."""
        first = max(0, diagonal - self._columns + 1)
        count = (min(self._rows - 1, diagonal) + 1 - first) * self._batch
        here = self._origin + first * self._row + (diagonal - first) * self._size
        target = self._data.as_strided((count, self._size), (self._image, 1), here)
        for taps, back in self._taps:
            seen = self._data.as_strided((count, len(taps)), (self._image, 1), here - back)
            target.addmm_(seen, taps, alpha=-1)
