"""Where the Triton kernels serve, and the order in memory that they work in."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flow_kernels.autograd import is_addressable
from flow_kernels.launching import is_reachable, is_refused

# Up to here float32 holds the coefficients exactly.
HIGHEST_ORDER = 7

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def serves(highest: int, *tensors: Tensor) -> bool:
    """Whether the kernels do this; where they might be expected to and do not, say so once."""
    x = tensors[0]
    if not is_reachable(x) or highest > HIGHEST_ORDER or not is_addressable(*tensors):
        return False
    obstacle = None if x.dtype in _DTYPES else f"it knows no {x.dtype}"
    return not is_refused("cpila", obstacle)


def derivatives(
    x: Float[Tensor, "*shape"], dim: int, order: int, count: int
) -> tuple[Float[Tensor, "*doubled"], ...]:
    """Same as `reference.derivatives` for one order or two; not differentiable itself."""
    return _push(x, None, dim, order, count)


def push(
    x: Float[Tensor, "*shape"], t: Float[Tensor, "*shape"], dim: int, order: int, count: int
) -> tuple[Float[Tensor, "*doubled"], ...]:
    """Same as `derivatives`, times [t, t]."""
    return _push(x, t, dim, order, count)


def pullback(
    x: Float[Tensor, "*shape"], dim: int, order: int, cotangents: tuple[Tensor, ...]
) -> Float[Tensor, "*shape"]:
    """Same as `reference.pullback` for one cotangent or two; not differentiable itself."""
    from flow_kernels.cpila.triton_kernel import launch_pull  # noqa: PLC0415 (Triton is optional)

    layout = _layout(x, dim)
    arranged = layout.arranged(x)
    out = torch.empty_like(arranged)
    gs = tuple(map(layout.arranged, cotangents))
    launch_pull(arranged, gs, out, columns=layout.columns(arranged), order=order + 1)
    return layout.restored(out)


def pullback_backward(
    x: Float[Tensor, "*shape"],
    t: Float[Tensor, "*shape"],
    dim: int,
    order: int,
    cotangents: tuple[Tensor, ...],
) -> tuple[Float[Tensor, "*shape"], tuple[Float[Tensor, "*doubled"], ...]]:
    """t · `pullback` of one order more, and `push` of as many orders as there are cotangents.

    These are the gradients of ⟨t, pullback⟩ by x and by the cotangents.
    """
    from flow_kernels.cpila.triton_kernel import (  # noqa: PLC0415 (Triton is optional)
        launch_pull_backward,
    )

    layout = _layout(x, dim)
    arranged = layout.arranged(x)
    along_x, outs = torch.empty_like(arranged), layout.doubled(arranged, len(cotangents))
    launch_pull_backward(
        arranged,
        layout.arranged(t),
        tuple(map(layout.arranged, cotangents)),
        along_x,
        outs,
        columns=layout.columns(arranged),
        order=order + 1,
    )
    return layout.restored(along_x), tuple(map(layout.restored, outs))


def _push(x: Tensor, t: Tensor | None, dim: int, order: int, count: int) -> tuple[Tensor, ...]:
    from flow_kernels.cpila.triton_kernel import launch_push  # noqa: PLC0415 (Triton is optional)

    layout = _layout(x, dim)
    arranged = layout.arranged(x)
    outs = layout.doubled(arranged, count)
    scale = None if t is None else layout.arranged(t)
    launch_push(arranged, scale, outs, columns=layout.columns(arranged), order=order)
    return tuple(map(layout.restored, outs))


@dataclass(frozen=True)
class _Layout:
    """An order of the dimensions, from the outermost on, and the place of the one that doubles."""

    dims: tuple[int, ...]
    place: int

    def arranged(self, x: Tensor) -> Tensor:
        """The tensor in that order, without gaps."""
        return x.permute(self.dims).contiguous().resolve_neg()

    def columns(self, arranged: Tensor) -> int:
        """How many numbers of x lie together before those of the other half come."""
        return math.prod(arranged.shape[self.place :])

    def doubled(self, arranged: Tensor, count: int) -> tuple[Tensor, ...]:
        """Memory for so many results of two halves."""
        shape = list(arranged.shape)
        shape[self.place] *= 2
        return tuple(arranged.new_empty(shape) for _ in range(count))

    def restored(self, y: Tensor) -> Tensor:
        """The tensor with its dimensions where they were, in the same memory."""
        return y.permute([self.dims.index(dim) for dim in range(y.ndim)])


def _layout(x: Tensor, dim: int) -> _Layout:
    """The order in which x lies in memory, channels last for one; its own if it has gaps."""
    natural = tuple(range(x.ndim))
    by_stride = tuple(sorted(natural, key=x.stride, reverse=True))
    dense = not x.is_contiguous() and x.permute(by_stride).is_contiguous()
    dims = by_stride if dense else natural
    return _Layout(dims, dims.index(dim % x.ndim))
