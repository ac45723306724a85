"""The wavefront as a Triton kernel: one program solves one group of one image.

Row h of a tile owns row h of the image and at step d works on its pixel w = d - h, so a step is a
matrix product per tap, and what it reads was written at earlier steps. Images with more rows than
a tile are done strip by strip. z itself is the scratch: its pixels are contiguous vectors.
"""

# ruff: noqa: ANN001, ANN202, PLR0917 (constants of a kernel are upper case, without types)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_SMALLEST = 16

# Numbers of a tile, which a program keeps in its registers.
_LARGEST = 1024


def launch(
    first: Float[Tensor, "batch groups height width channels"],
    z: Float[Tensor, "batch groups height width channels"],
    taps: Float[Tensor, "groups kernel_height kernel_width channels channels"],
    orders: Int[Tensor, " groups"],
    *,
    rows: int,
) -> None:
    """Fill z, where first is the corner's inverse times x.

    Args:
        first: Right-hand side, pixels as contiguous vectors.
        z: Is overwritten.
        taps: What is subtracted, to multiply from the right; the tap [0, 0] is not used.
        orders: A number per group, see `orders.codes`.
        rows: Most rows of a tile.
    """
    batch, groups, height, width, channels = first.shape
    if not first.numel():
        return
    columns = max(_SMALLEST, triton.next_power_of_2(channels))
    # Triton launches on the current device.
    with torch.cuda.device_of(first):
        _solve[(batch * groups,)](
            first,
            z,
            taps,
            orders,
            height,
            width,
            groups,
            taps.shape[1] * taps.shape[2],
            C=channels,
            KW=taps.shape[2],
            ROWS=max(_SMALLEST, min(rows, _LARGEST // columns, triton.next_power_of_2(height))),
            COLUMNS=columns,
            num_warps=8 if columns > 32 else 4,
            # What Triton up to 3.9 does unasked; it warns that later ones will not.
            enable_fp_fusion=True,
        )


@triton.jit
@no_type_check  # run-time type checks would wrap what Triton compiles
def _solve(
    first_ptr,
    z_ptr,
    taps_ptr,
    orders_ptr,
    height,
    width,
    groups,
    count,
    C: tl.constexpr,
    KW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    group = tl.program_id(0) % groups
    order = tl.load(orders_ptr + group)
    from_below, from_right = (order & 2) != 0, (order & 1) != 0
    start = tl.program_id(0).to(tl.int64) * height * width * C
    lane = tl.arange(0, ROWS)
    c = tl.arange(0, COLUMNS)
    is_channel = c < C
    square = c[:, None] * C + c[None, :]
    is_weight = is_channel[:, None] & is_channel[None, :]
    for strip in range(0, height, ROWS):
        h = strip + lane
        for step in range(width + tl.minimum(ROWS, height - strip) - 1):
            w = step - lane
            inside = (h < height) & (w >= 0) & (w < width)
            y = tl.where(from_below, height - 1 - h, h)
            x = tl.where(from_right, width - 1 - w, w)
            place = start + (y * width + x)[:, None] * C + c[None, :]
            is_number = inside[:, None] & is_channel[None, :]
            rest = tl.load(first_ptr + place, mask=is_number, other=0.0)
            # Not unrolled: the number of taps is not known to the compiler.
            for tap in range(1, count):
                up, left = tap // KW, tap % KW
                known = inside & (h >= up) & (w >= left)
                back_y = tl.where(from_below, y + up, y - up)
                back_x = tl.where(from_right, x + left, x - left)
                source = start + (back_y * width + back_x)[:, None] * C + c[None, :]
                is_known = known[:, None] & is_channel[None, :]
                seen = tl.load(z_ptr + source, mask=is_known, other=0.0)
                at = (group * count + tap) * C * C
                weights = tl.load(taps_ptr + at + square, mask=is_weight, other=0.0)
                # Three products of tf32 keep the digits of float32, a single one would not.
                rest -= tl.dot(seen, weights, input_precision="tf32x3")
            tl.store(z_ptr + place, rest, mask=is_number)
            # What this step wrote is read by other threads in the next one.
            tl.debug_barrier()
