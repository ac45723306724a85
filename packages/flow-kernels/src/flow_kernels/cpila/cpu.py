"""CPila for eager torch on the CPU: few operations, and few passes over memory.

Three things make it several times faster than the definition, operation by operation:

* The argument is clamped to w ≤ 0 once. Every derivative up to the third is continuous, so that
  Pₙ(min(w, 0))·e^{k min(w, 0)} has the right value for positive w too (the value only lacks its
  max(w, 0)); no masks are needed. The clamp is never differentiated.
* The normalizer is folded into the argument, w = (±x − .2)/1.06, and into the coefficients.
* Large tensors are worked off in blocks, so that intermediate results stay in the cache.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from flow_kernels.cpila.constants import NORMALIZER, OFFSET
from flow_kernels.pila import CUTOFF, RATE, polynomial

# From the fourth on, the derivatives jump at 0.
HIGHEST_ORDER = 3

# Of one intermediate result, per thread: four of them fit into a cache of 1 MiB.
_BLOCK_BYTES = 1 << 18


def _constant(value: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor(value, dtype=dtype, device="cpu")


def _scaled_polynomial(order: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, float]:
    d, c, b, a = (k * NORMALIZER ** (i - 1) for i, k in enumerate(polynomial(order)))
    return _constant(d, dtype), _constant(c, dtype), _constant(b, dtype), a


# As tensors without dimensions, because addcmul takes no numbers: one Horner step is one operation.
# Made at import, so that no mode that is active later (fake, inference) can own them.
_DTYPES = (torch.float32, torch.float64)
_OFFSET = {dtype: _constant(-OFFSET / NORMALIZER, dtype) for dtype in _DTYPES}
_POLYNOMIAL = {
    (dtype, order): _scaled_polynomial(order, dtype)
    for dtype in _DTYPES
    for order in range(HIGHEST_ORDER + 1)
}


def derivatives(
    x: Float[Tensor, "*shape"], dim: int, order: int, count: int
) -> tuple[Float[Tensor, "*doubled"], ...]:
    """Same as `reference.derivatives` for orders up to 3; not differentiable itself."""
    shape = list(x.shape)
    shape[dim] *= 2
    outs = tuple(x.new_empty(shape) for _ in range(count))
    for block, *targets in _blocks(_rows(x, dim), *(_halves(out, dim) for out in outs)):
        w = _arguments(block)
        t, decay = _clamp_and_decay(w)
        for n, target in enumerate(targets, start=order):
            if n == 0:
                torch.addcmul(w.relu_(), _cubic(t, n), decay, out=target)
            else:
                torch.mul(_cubic(t, n), decay, out=target)
            if n % 2:
                target[:, 1].neg_()
    return outs


def pullback(
    x: Float[Tensor, "*shape"], dim: int, order: int, cotangents: tuple[Tensor, ...]
) -> Float[Tensor, "*shape"]:
    """Same as `reference.pullback` for orders up to 2; not differentiable itself."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    halves = (_halves(g.contiguous(), dim) for g in cotangents)
    for block, target, *gs in _blocks(_rows(x, dim), _rows(out, dim), *halves):
        t, decay = _clamp_and_decay(_arguments(block))
        for n, g in enumerate(gs, start=order + 1):
            product = _cubic(t, n).mul_(decay).mul_(g)
            first, second = product[:, :1], product[:, 1:]
            if n == order + 1:
                torch.add(first, second, alpha=(-1) ** n, out=target)
            else:
                target.add_(first).add_(second, alpha=(-1) ** n)
    return out


def _rows(x: Tensor, dim: int) -> Tensor:
    """The tensor as (rows, 1, columns): what lies before `dim`, and the rest."""
    return x.contiguous().view(math.prod(x.shape[:dim]), 1, math.prod(x.shape[dim:]))


def _halves(y: Tensor, dim: int) -> Tensor:
    """A doubled tensor as (rows, 2, columns)."""
    return y.view(math.prod(y.shape[:dim]), 2, math.prod(y.shape[dim:]) // 2)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut (rows, 1 or 2, columns) tensors into the same blocks, each small enough for the cache."""
    rows, _, columns = tensors[0].shape
    limit = _BLOCK_BYTES // (2 * tensors[0].element_size()) * torch.get_num_threads()
    if rows * columns <= limit:
        yield tensors
        return
    height, width = max(1, limit // columns), min(columns, limit)
    for i in range(0, rows, height):
        for j in range(0, columns, width):
            yield tuple(tensor[i : i + height, :, j : j + width] for tensor in tensors)


def _arguments(x: Tensor) -> Tensor:
    offset = _OFFSET[x.dtype]
    return torch.cat(
        (torch.add(offset, x, alpha=1 / NORMALIZER), torch.add(offset, x, alpha=-1 / NORMALIZER)), 1
    )


def _clamp_and_decay(w: Tensor) -> tuple[Tensor, Tensor]:
    t = w.clamp(CUTOFF, 0.0)
    return t, t.mul(RATE * NORMALIZER).exp_()


def _cubic(t: Tensor, order: int) -> Tensor:
    """Pₙ(1.06 t)/1.06, in a new tensor."""
    d, c, b, a = _POLYNOMIAL[t.dtype, order]
    y = torch.add(b, t, alpha=a)
    torch.addcmul(c, y, t, out=y)
    return y.mul_(t) if order in (0, 2) else torch.addcmul(d, y, t, out=y)
