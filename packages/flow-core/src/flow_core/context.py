"""What a bijection may depend on beside its input."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Context: TypeAlias = Float[Tensor, " batch *context"] | None
"""Numbers of every sample, the batch first."""


def spread(context: Tensor, batch: int, lead: tuple[int, ...]) -> Tensor:
    """Repeat a context, whose first dimensions are the batch, to `lead`, and fold that into one."""
    sizes = context.shape[batch:]
    return context.expand(*lead, *sizes).reshape(math.prod(lead), *sizes)


def broadcast_batch(shape: Sequence[int], batch: Sequence[int]) -> tuple[int, ...]:
    """The leading dimensions of x and the batch shape of contexts, broadcast.

    Raises:
        ValueError: If they do not fit.
    """
    try:
        # torch declares this function without types.
        return tuple(torch.broadcast_shapes(shape, batch))  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(
            f"Flow: expected leading dimensions of x that fit a batch of contexts of shape "
            f"{tuple(batch)}, got {tuple(shape)}"
        ) from None
