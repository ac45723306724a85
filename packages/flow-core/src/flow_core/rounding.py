"""Bijections compute in the precision of their parameters, whatever the autocast state.

In half precision the two directions would round differently and not be each other's inverse: a
conditioner that sees its input again with an error of 1e-7 rounds to another number. The outermost
call switches autocast off for all layers below.
"""

import torch
from flow_solvers import widen
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
"""The precisions that are widened."""


def widened(
    x: Tensor, context: Tensor | None, own: torch.dtype | None
) -> tuple[Tensor, Tensor | None]:
    """Halves as float32, where autocast has made them or the weights are not halves too.

    Args:
        x: The input.
        context: Its context.
        own: Precision of the weights, None where there are none.
    """
    if x.dtype not in HALF and (context is None or context.dtype not in HALF):
        return x, context
    halves = own is None or own in HALF
    if halves and not _autocast_is_on(x):
        return x, context
    return widen(x), None if context is None else widen(context)


def _autocast_is_on(like: Tensor) -> bool:
    kind = like.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
