"""Where the Triton kernel serves, and what surrounds it."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow_kernels.inverse_conv.blocks import recursion
from flow_kernels.launching import is_reachable, is_refused

LARGEST = 64
_ROWS = 64


def serves(x: Tensor, channels: int) -> bool:
    """Whether the kernel solves this; where it might be expected to and does not, say so once."""
    if not is_reachable(x):
        return False
    return not is_refused("inverse_conv2d", _obstacle(x.dtype, channels))


def solve(
    x: Float[Tensor, "batch channels height width"],
    kernel: Float[Tensor, "groups group_channels group_channels kernel_height kernel_width"],
    orders: Sequence[int],
    *,
    upper: bool,
) -> Float[Tensor, "batch channels height width"]:
    """z with T z = x: all groups in one launch, a program for every image and group.

    The corner taps are lower triangular, or `upper` triangular.
    """
    from flow_kernels.inverse_conv.triton_kernel import launch  # noqa: PLC0415 (Triton is optional)

    groups, channels, _, *size = kernel.shape
    batch, _, *pixels = x.shape
    steps = recursion(kernel, (1, 1), upper=upper)
    # A matrix for every image, so that the product reads x where it lies.
    matrices = steps.first.expand(batch, -1, -1, -1).flatten(0, 1)
    by_channel = x.reshape(batch * groups, channels, math.prod(pixels))
    first = torch.bmm(by_channel.mT, matrices).view(batch, groups, *pixels, channels)
    # Of each row from right to left: the pixel itself, its neighbour, …
    taps = steps.taps.view(groups, *size, channels, channels).flip(2)
    z = torch.empty_like(first)
    launch(first, z, taps.contiguous(), _on_device(tuple(orders), x.device), rows=_ROWS)
    return z.flatten(2, 3).mT.contiguous().view(x.shape)


@cache
def _on_device(orders: tuple[int, ...], device: torch.device) -> Int[Tensor, " groups"]:
    """The orders where the kernel reads them, copied there once."""
    return torch.tensor(orders, dtype=torch.int32, device=device)


def _obstacle(dtype: torch.dtype, channels: int) -> str | None:
    if dtype != torch.float32:
        return f"it computes in float32, and this is {dtype}"
    if channels > LARGEST:
        return f"it takes at most {LARGEST} channels a group, and these are {channels}"
    return None
