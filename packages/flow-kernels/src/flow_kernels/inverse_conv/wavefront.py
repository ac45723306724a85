"""Solving a padded convolution: all blocks on one anti-diagonal at once.

Blocks are kept in a skewed buffer: row h, image, column d = h + w, numbers. All of a diagonal have
the same d, and what a block reads in one row above lies side by side, so that a diagonal takes one
matrix product per row of the kernel and nothing is gathered or copied.
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
    ph, pw = shape = block_shape(x.shape[1])
    steps = recursion(kernel, shape, upper=upper)
    _, channels, height, width = x.shape
    rows, columns = ceil(height / ph), ceil(width / pw)
    # What is added below and to the right is read by nothing that is kept.
    padded = torch.nn.functional.pad(x, (0, columns * pw - width, 0, rows * ph - height))
    blocks = padded.reshape(-1, channels, rows, ph, columns, pw)
    buffer = _Skewed(blocks.permute(2, 0, 4, 3, 5, 1).flatten(3), steps)
    for diagonal in range(rows + columns - 1):
        buffer.step(diagonal)
    solved = buffer.blocks().view(rows, -1, columns, ph, pw, channels).permute(1, 5, 0, 3, 2, 4)
    return solved.reshape(padded.shape)[:, :, :height, :width].contiguous()


@final
class _Skewed:
    """The buffer, which holds first · x where z is not known yet.

    Rows above and columns before those of the image are zero, and so are the corners that skewing
    leaves free.
    """

    def __init__(self, x: Float[Tensor, "rows batch columns size"], steps: Recursion) -> None:
        self._rows, self._batch, self._columns, self._size = x.shape
        self._steps, self._reach = steps, steps.taps.shape[1] // self._size
        above = len(steps.taps) - 1
        before = above + self._reach - 1
        diagonals = self._rows + self._columns - 1
        self._data = x.new_zeros(self._rows + above, self._batch, before + diagonals, self._size)
        self._row, self._image, self._column, _ = self._data.stride()
        self._origin = above * self._row + before * self._column
        self.blocks().copy_((x.reshape(-1, self._size) @ steps.first).view(x.shape))

    def blocks(self) -> Float[Tensor, "rows batch columns size"]:
        """The blocks of the images, as a view."""
        strides = (self._row + self._column, self._image, self._column, 1)
        sizes = (self._rows, self._batch, self._columns, self._size)
        return self._data.as_strided(sizes, strides, self._origin)

    def step(self, diagonal: int) -> None:
        """Subtract from one diagonal what those before it contribute."""
        first = max(0, diagonal - self._columns + 1)
        count = (min(self._rows - 1, diagonal) + 1 - first) * self._batch
        here = self._origin + first * self._row + diagonal * self._column
        target = self._vectors(count, 1, here)
        for above, taps in enumerate(self._steps.taps):
            reach = self._reach if above else self._reach - 1
            if reach:
                start = here - above * self._row - (above + self._reach - 1) * self._column
                seen = self._vectors(count, reach, start)
                target.addmm_(seen, taps[: reach * self._size], alpha=-1)

    def _vectors(self, count: int, blocks: int, offset: int) -> Float[Tensor, "count numbers"]:
        """Neighbouring blocks of neighbouring images and rows, one row of a matrix each."""
        return self._data.as_strided((count, blocks * self._size), (self._image, 1), offset)
