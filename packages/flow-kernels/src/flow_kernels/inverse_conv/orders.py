"""From which corner a padded convolution looks, as flips of the canonical one.

The canonical order is TL: zeros are padded above and to the left, and a pixel sees itself and what
is above and to the left of it. The other orders are the canonical one on a flipped image; kernels
are kept in canonical orientation always.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

Order: TypeAlias = Literal["TL", "TR", "BL", "BR"]
_HEIGHT, _WIDTH = 2, 3


def codes(orders: Order | Sequence[Order], groups: int) -> list[int]:
    """A number per group: bit 0 flips the width, bit 1 the height.

    Raises:
        ValueError: An order is unknown, or there is neither one nor one per group.
    """
    names = [orders] if isinstance(orders, str) else list(orders)
    known = get_args(Order)
    if any(name not in known for name in names):
        raise ValueError(f"expected orders among {', '.join(known)}, got {orders!r}")
    if len(names) not in (1, groups):
        raise ValueError(f"expected one order or one for each of {groups} groups, got {orders!r}")
    return [known.index(name) for name in names] * (groups // len(names))


def adjoint(orders: Sequence[int]) -> list[int]:
    """What the transposed convolution looks at: the opposite corner."""
    return [order ^ 3 for order in orders]


def flipped(x: Tensor, order: int) -> Tensor:
    """A batch of images as the canonical order sees it; its own inverse."""
    dims = [dim for bit, dim in ((1, _WIDTH), (2, _HEIGHT)) if order & bit]
    return x.flip(dims) if dims else x


def canonical(x: Tensor, orders: Sequence[int]) -> Tensor:
    """Every group of channels as the canonical order sees it; its own inverse."""
    if len(set(orders)) == 1:
        return flipped(x, orders[0])
    groups = zip(x.chunk(len(orders), 1), orders, strict=True)
    return torch.cat([flipped(part, order) for part, order in groups], 1)


def padding(order: int, height: int, width: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) for a kernel of that size."""
    left, right = (0, width - 1) if order & 1 else (width - 1, 0)
    top, bottom = (0, height - 1) if order & 2 else (height - 1, 0)
    return left, right, top, bottom
