"""Dense Jacobians of bijections."""

import math
from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from flow_solvers import without_autocast
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.context import Context
from flow_core.passes import Direction
from flow_core.settings import Settings


def jacobian(
    bijection: Bijection,
    x: Float[Tensor, " batch *shape"],
    *,
    direction: Direction = "transform",
    context: Context = None,
    chunk: int | None = None,
    using: Settings | None = None,
) -> Float[Tensor, "batch dim dim2"]:
    """∂output/∂input of every sample as a matrix, outputs in rows, both flattened.

    Every sample is repeated once per output and takes its unit cotangent with it, so a chunk is
    one pass and one backward through the solvers; nothing is vectorised over a solver's loop.

    Args:
        bijection: The map; its parameters get no gradient.
        x: Where; the input of the direction that is asked.
        direction: Which of the two maps.
        context: First dimension the batch.
        chunk: Rows per pass; all of them by default. Memory grows with it.
        using: What the calls do their work with.

    Raises:
        ValueError: If `chunk` is not positive, or the direction is neither of the two.
    """
    if direction not in get_args(Direction):
        raise ValueError(f'expected direction "transform" or "inverse", got {direction!r}')
    asked = bijection.transform if direction == "transform" else bijection.inverse
    return jacobian_of(partial(asked, using=using), x, context=context, chunk=chunk)


def jacobian_of(
    function: Callable[..., Tensor],
    x: Float[Tensor, " batch *shape"],
    *,
    context: Context = None,
    chunk: int | None = None,
) -> Float[Tensor, "batch dim dim2"]:
    """The same of any function of a batch that gives as many values as it takes.

    Args:
        function: Takes a batch, and `context=` where there is one.
        x: Where.
        context: First dimension the batch.
        chunk: Rows per pass; all of them by default.

    Raises:
        ValueError: If `chunk` is not positive.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"expected a positive chunk or None, got {chunk}")
    dim = math.prod(x.shape[1:])
    rows = torch.split(torch.arange(dim, device=x.device), chunk or max(dim, 1))
    # Backward passes run in here: in half precision they would round what the solvers solve.
    with torch.inference_mode(mode=False), without_autocast(x), torch.enable_grad():
        parts = [_rows(function, x, context, part) for part in rows]
    return torch.cat(parts, dim=1)


def _rows(
    function: Callable[..., Tensor], x: Tensor, context: Context, rows: Tensor
) -> Float[Tensor, "batch rows dim"]:
    """The given rows of the Jacobian, shape (batch, rows, dim)."""
    count = rows.numel()
    repeated = x.detach().repeat_interleave(count, 0).requires_grad_()
    if context is None:
        output = function(repeated)
    else:
        output = function(repeated, context=context.detach().repeat_interleave(count, 0))
    dim = math.prod(x.shape[1:])
    cotangent = output.new_zeros(len(output), dim)
    position = rows.repeat(x.shape[0])
    cotangent.scatter_(1, position[:, None], 1.0)
    (grad,) = torch.autograd.grad(output, repeated, cotangent.view_as(output))
    return grad.reshape(x.shape[0], count, dim)
