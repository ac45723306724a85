"""CPila as Triton kernels: each reads every input once and writes every output once.

A tensor is rows of columns, and of doubled columns where it has two halves: element i of x stands
in row i // columns. WIDTH divides the columns and is a power of two, so that as many neighbours
share a row, a mask and an alignment: they are read and written together, and one division serves
them all. What derivatives of several orders have in common, the compiler computes once.
"""

# ruff: noqa: ANN001, ANN202, PLR0917 (constants of a kernel are upper case, without types)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from flow_kernels.cpila.constants import NORMALIZER, OFFSET
from flow_kernels.pila import CUTOFF, RATE

_BLOCK = 1024

# Beyond it, places need 64 bits; those of the last block, of which two halves hang over, too.
_LARGEST = 2**31 - 1 - 2 * _BLOCK

_CUTOFF = tl.constexpr(CUTOFF)
_OFFSET = tl.constexpr(OFFSET)
_RATE = tl.constexpr(RATE)
_SCALE = tl.constexpr(1 / NORMALIZER)


def launch_push(
    x: Float[Tensor, "*shape"],
    t: Float[Tensor, "*shape"] | None,
    outs: tuple[Tensor, ...],
    *,
    columns: int,
    order: int,
) -> None:
    """Fill outs with the derivatives of order `order`, `order + 1` at x, times t."""
    y0, y1 = (*outs, None)[:2]
    _launch(_push, x, t, y0, y1, columns=columns, order=order)


def launch_pull(
    x: Float[Tensor, "*shape"],
    cotangents: tuple[Tensor, ...],
    out: Float[Tensor, "*shape"],
    *,
    columns: int,
    order: int,
) -> None:
    """Fill out with Σₖ cotangents[k] · derivative of order `order + k`, both halves added."""
    g0, g1 = (*cotangents, None)[:2]
    _launch(_pull, x, g0, g1, out, columns=columns, order=order)


def launch_pull_backward(
    x: Float[Tensor, "*shape"],
    t: Float[Tensor, "*shape"],
    cotangents: tuple[Tensor, ...],
    along_x: Float[Tensor, "*shape"],
    outs: tuple[Tensor, ...],
    *,
    columns: int,
    order: int,
) -> None:
    """Fill outs as `launch_push`, and along_x with t times `launch_pull` of one order more."""
    g0, g1 = (*cotangents, None)[:2]
    y0, y1 = (*outs, None)[:2]
    _launch(_pull_backward, x, t, g0, g1, along_x, y0, y1, columns=columns, order=order)


def _launch(kernel, x: Tensor, *tensors: Tensor | None, columns: int, order: int) -> None:
    if not x.numel():
        return
    width = min(columns & -columns, _BLOCK)
    # Triton launches on the current device.
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(x.numel(), _BLOCK),)](
            x,
            *tensors,
            x.numel() // width,
            columns // width,
            ORDER=order,
            WIDTH=width,
            BLOCK=_BLOCK,
            INDEX=tl.int64 if 2 * x.numel() > _LARGEST else tl.int32,
            FLOAT=tl.float64 if x.dtype == torch.float64 else tl.float32,
            # What Triton up to 3.9 does unasked; it warns that later ones will not.
            enable_fp_fusion=True,
        )


@triton.jit
@no_type_check  # run-time type checks would wrap what Triton compiles
def _push(
    x_ptr,
    t_ptr,
    y0_ptr,
    y1_ptr,
    groups,
    groups_per_row,
    ORDER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
    FLOAT: tl.constexpr,
):
    here, first, second, inside = _places(groups, groups_per_row, WIDTH, BLOCK, INDEX)
    x = tl.load(x_ptr + here, mask=inside).to(FLOAT)
    t = 1.0 if t_ptr is None else tl.load(t_ptr + here, mask=inside).to(FLOAT)
    _store_halves(y0_ptr, x, t, first, second, inside, ORDER)
    if y1_ptr is not None:
        _store_halves(y1_ptr, x, t, first, second, inside, ORDER + 1)


@triton.jit
@no_type_check
def _pull(
    x_ptr,
    g0_ptr,
    g1_ptr,
    out_ptr,
    groups,
    groups_per_row,
    ORDER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
    FLOAT: tl.constexpr,
):
    here, first, second, inside = _places(groups, groups_per_row, WIDTH, BLOCK, INDEX)
    x = tl.load(x_ptr + here, mask=inside).to(FLOAT)
    total = _weighted(g0_ptr, x, first, second, inside, ORDER)
    if g1_ptr is not None:
        total += _weighted(g1_ptr, x, first, second, inside, ORDER + 1)
    tl.store(out_ptr + here, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _pull_backward(
    x_ptr,
    t_ptr,
    g0_ptr,
    g1_ptr,
    along_ptr,
    y0_ptr,
    y1_ptr,
    groups,
    groups_per_row,
    ORDER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
    FLOAT: tl.constexpr,
):
    here, first, second, inside = _places(groups, groups_per_row, WIDTH, BLOCK, INDEX)
    x = tl.load(x_ptr + here, mask=inside).to(FLOAT)
    t = tl.load(t_ptr + here, mask=inside).to(FLOAT)
    total = _weighted(g0_ptr, x, first, second, inside, ORDER + 1)
    _store_halves(y0_ptr, x, t, first, second, inside, ORDER)
    if g1_ptr is not None:
        total += _weighted(g1_ptr, x, first, second, inside, ORDER + 2)
        _store_halves(y1_ptr, x, t, first, second, inside, ORDER + 1)
    tl.store(along_ptr + here, (t * total).to(along_ptr.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _places(groups, groups_per_row, WIDTH: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """Where the program's elements stand in x, in the first and in the second half."""
    here = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    group = here // WIDTH
    columns = groups_per_row * WIDTH
    first = here + group // groups_per_row * columns
    return here, first, first + columns, group < groups


@triton.jit
@no_type_check
def _store_halves(y_ptr, x, t, first, second, inside, ORDER: tl.constexpr):
    left, right = _halves(x, ORDER)
    tl.store(y_ptr + first, (left * t).to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(y_ptr + second, (right * t).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _weighted(g_ptr, x, first, second, inside, ORDER: tl.constexpr):
    left, right = _halves(x, ORDER)
    g_left = tl.load(g_ptr + first, mask=inside).to(x.dtype)
    g_right = tl.load(g_ptr + second, mask=inside).to(x.dtype)
    return g_left * left + g_right * right


@triton.jit
@no_type_check
def _halves(x, ORDER: tl.constexpr):
    right = _pila(-x - _OFFSET, ORDER)
    return _pila(x - _OFFSET, ORDER), (-right if ORDER % 2 == 1 else right)


@triton.jit
@no_type_check
def _pila(w, ORDER: tl.constexpr):
    """The derivative of p at w, over the normalizer."""
    # As `pila.polynomial`, whose numbers float32 holds exactly.
    d, c, b, a = 0.0, 1.0, -_RATE, _RATE * _RATE / 2
    for _ in tl.static_range(ORDER):
        d, c, b, a = d * _RATE + c, c * _RATE + b * 2, b * _RATE + a * 3, a * _RATE
    # Comparisons, because the minimum of NaN and a number is the number.
    t = tl.where(w > 0, 0.0, tl.where(w < _CUTOFF, _CUTOFF, w))
    below = (((t * a + b) * t + c) * t + d) * tl.exp(t * _RATE)
    if ORDER == 0:
        return tl.where(w > 0, w, below) * _SCALE
    return tl.where(w > 0, 1.0 if ORDER == 1 else 0.0, below) * _SCALE
