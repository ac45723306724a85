"""The public CPila operations: differentiable to any order, in both modes, and compilable.

Three autograd Functions are closed under differentiation: the evaluation of derivatives, their
product with a tangent, the push, and with a cotangent, the pullback. The jvp of an evaluation is a
push and its vjp a pullback; the vjp of a pullback pushes and pulls back one order higher. Of an
evaluation only x is kept for the backward pass. Compilers see the plain definition instead, because
they accept no Function that has a `jvp`, and fuse it themselves.
"""

# ruff: noqa: ANN401 (what autograd passes to a Function has no type)

from typing import Any, cast

import torch
from flow_solvers.precision import widen
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from flow_kernels.autograd import (
    forward_mode,
    is_differentiated,
    is_plain_cpu,
    keep_signature,
    primals,
)
from flow_kernels.cpila import cpu, gpu, reference

Grads = tuple[Tensor | None, ...]


class _Derivatives(Function):
    """(x) ↦ the derivatives of order `order`, …, `order + count − 1`, as `reference.derivatives`.

    `dim` is negative, so that a leading dimension that vmap adds does not move it.
    """

    @staticmethod
    def forward(x: Tensor, dim: int, order: int, count: int) -> tuple[Tensor, ...]:
        if gpu.serves(order + count - 1, x):
            return gpu.derivatives(x, dim, order, count)
        wide = widen(x)
        fused = _fits_cpu_path(order + count - 1, wide)
        evaluate = cpu.derivatives if fused else reference.derivatives
        outputs = evaluate(wide, dim, order, count)
        return outputs if wide is x else tuple(y.to(x.dtype) for y in outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
        x, ctx.dim, ctx.order, ctx.count = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> Grads:
        (x,) = ctx.saved_tensors
        return _pull_present(x, ctx.dim, ctx.order, grad_outputs), None, None, None

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> tuple[Tensor, ...]:
        with forward_mode():
            (x,) = primals(ctx.saved_tensors)
            return _push(x, grad_inputs[0], ctx.dim, ctx.order + 1, ctx.count)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, tuple[int, ...]]:
        x, dim, order, count = args
        return _evaluate(x.movedim(in_dims[0], 0), dim, order, count), (0,) * count


class _Push(Function):
    """(x, t) ↦ [t, t] times the derivatives of order `order` ≥ 1, …, `order + count − 1`."""

    @staticmethod
    def forward(x: Tensor, t: Tensor, dim: int, order: int, count: int) -> tuple[Tensor, ...]:
        if gpu.serves(order + count - 1, x, t):
            return gpu.push(x, t, dim, order, count)
        twice = _twice(t, dim)
        return tuple(twice * y for y in _Derivatives.forward(x, dim, order, count))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
        x, t, ctx.dim, ctx.order, ctx.count = inputs
        ctx.save_for_backward(x, t)
        ctx.save_for_forward(x, t)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Grads:
        x, t = ctx.saved_tensors
        by_x, by_t, *_ = ctx.needs_input_grad
        along_x = t * _pull(x, ctx.dim, ctx.order, *grad_outputs) if by_x else None
        along_t = _pull(x, ctx.dim, ctx.order - 1, *grad_outputs) if by_t else None
        return along_x, along_t, None, None, None

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> tuple[Tensor, ...]:
        x_tangent, t_tangent, *_ = grad_inputs
        with forward_mode():
            x, t = primals(ctx.saved_tensors)
            along_t = _push(x, t_tangent, ctx.dim, ctx.order, ctx.count)
            along_x = _push(x, t * x_tangent, ctx.dim, ctx.order + 1, ctx.count)
            return tuple(map(torch.add, along_x, along_t))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, tuple[int, ...]]:
        x, t, dim, order, count = args
        x, t = (
            _batch_first(*pair, info.batch_size) for pair in zip((x, t), in_dims[:2], strict=True)
        )
        return _push(x, t, dim, order, count), (0,) * count


class _Pullback(Function):
    """(x, g₀, g₁, …) ↦ Σₖ gₖ · derivative of order `order + 1 + k`, both halves added."""

    @staticmethod
    def forward(x: Tensor, dim: int, order: int, *cotangents: Tensor) -> Tensor:
        if gpu.serves(order + len(cotangents), x, *cotangents):
            return gpu.pullback(x, dim, order, cotangents)
        wide, *gs = (widen(tensor) for tensor in (x, *cotangents))
        pull = cpu.pullback if _fits_cpu_path(order + len(gs), wide, *gs) else reference.pullback
        return pull(wide, dim, order, tuple(gs)).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
        x, ctx.dim, ctx.order, *cotangents = inputs
        ctx.save_for_backward(x, *cotangents)
        ctx.save_for_forward(x, *cotangents)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Grads:
        x, *cotangents = ctx.saved_tensors
        (grad,) = grad_outputs
        by_x, by_cotangents = ctx.needs_input_grad[0], any(ctx.needs_input_grad[3:])
        if by_x and by_cotangents and _fits_fused_backward(ctx.order, x, grad, *cotangents):
            along, pushed = gpu.pullback_backward(x, grad, ctx.dim, ctx.order, (*cotangents,))
            return along, None, None, *pushed
        order, count = ctx.order + 1, len(cotangents)
        along_x = grad * _pull(x, ctx.dim, order, *cotangents) if by_x else None
        grads: Grads = _push(x, grad, ctx.dim, order, count) if by_cotangents else (None,) * count
        return along_x, None, None, *grads

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Tensor:
        x_tangent, _, _, *tangents = grad_inputs
        with forward_mode():
            x, *cotangents = primals(ctx.saved_tensors)
            along_x: Tensor = x_tangent * _pull(x, ctx.dim, ctx.order + 1, *cotangents)
            return along_x + _pull(x, ctx.dim, ctx.order, *tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        x, dim, order, *cotangents = args
        x_dim, _, _, *cotangent_dims = in_dims
        x = _batch_first(x, x_dim, info.batch_size)
        batched = (
            _batch_first(g, g_dim, info.batch_size)
            for g, g_dim in zip(cotangents, cotangent_dims, strict=True)
        )
        return _pull(x, dim, order, *batched), 0


keep_signature(_Derivatives)
keep_signature(_Push)
keep_signature(_Pullback)


def _fits_cpu_path(highest: int, *tensors: Tensor) -> bool:
    return highest <= cpu.HIGHEST_ORDER and is_plain_cpu(*tensors)


def _fits_fused_backward(order: int, *tensors: Tensor) -> bool:
    """Whether both gradients of a pullback are one kernel: one that nobody differentiates."""
    return not is_differentiated(*tensors) and gpu.serves(order + len(tensors) - 1, *tensors)


def _batch_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _twice(x: Tensor, dim: int) -> Tensor:
    return torch.cat((x, x), dim)


def _evaluate(x: Tensor, dim: int, order: int, count: int) -> tuple[Tensor, ...]:
    if not is_differentiated(x):
        return _Derivatives.forward(x, dim, order, count)
    return cast("tuple[Tensor, ...]", _Derivatives.apply(x, dim, order, count))


def _push(x: Tensor, t: Tensor, dim: int, order: int, count: int) -> tuple[Tensor, ...]:
    if not is_differentiated(x, t):
        return _Push.forward(x, t, dim, order, count)
    return cast("tuple[Tensor, ...]", _Push.apply(x, t, dim, order, count))


def _pull(x: Tensor, dim: int, order: int, *cotangents: Tensor) -> Tensor:
    if not is_differentiated(x, *cotangents):
        return _Pullback.forward(x, dim, order, *cotangents)
    return cast(Tensor, _Pullback.apply(x, dim, order, *cotangents))


def _pull_present(x: Tensor, dim: int, order: int, grads: Grads) -> Tensor | None:
    """The pullback of those outputs that have a gradient (at most two, so they are adjacent)."""
    present = [(order + k, grad) for k, grad in enumerate(grads) if grad is not None]
    if not present:
        return None
    return _pull(x, dim, present[0][0], *(grad for _, grad in present))


def _apply(x: Tensor, dim: int, order: int, count: int) -> tuple[Tensor, ...]:
    if not x.is_floating_point():
        raise ValueError(f"expected a floating point tensor, got {x.dtype}; convert it first")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(
            f"expected dim in [{-x.ndim}, {x.ndim}) for shape {tuple(x.shape)}, got {dim}; "
            "name the dimension of the channels"
        )
    negative = dim if dim < 0 else dim - x.ndim
    if not torch.compiler.is_compiling():
        return _evaluate(x, negative, order, count)
    outputs = reference.derivatives(widen(x), negative, order, count)
    return tuple(y.to(x.dtype) for y in outputs)


def cpila(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*doubled"]:
    """Concatenated Pila, [p(x − .2), p(−x − .2)] / 1.06 along `dim`, which doubles.

    Its Lipschitz constant is `CPILA_LIPSCHITZ` (Ahn et al., "Invertible Monotone Operators for
    Normalizing Flows", NeurIPS 2022). Half precision is computed in float32 and rounded once.

    Raises:
        ValueError: `x` is not floating point or `dim` is out of range.
    """
    return _apply(x, dim, 0, 1)[0]


def cpila_slope(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*doubled"]:
    """Derivative of each output of `cpila` with respect to its input, laid out like `cpila`.

    [p'(x − .2), −p'(−x − .2)] / 1.06. With slope s, the Jacobian product of a tangent t is
    s · [t, t], and the transposed product of a cotangent g = [g₁, g₂] is s₁g₁ + s₂g₂.

    Raises:
        ValueError: `x` is not floating point or `dim` is out of range.
    """
    return _apply(x, dim, 1, 1)[0]


def cpila_curvature(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*doubled"]:
    """Second derivative of each output of `cpila`: [p''(x − .2), p''(−x − .2)] / 1.06.

    Raises:
        ValueError: `x` is not floating point or `dim` is out of range.
    """
    return _apply(x, dim, 2, 1)[0]


def cpila_with_slope(
    x: Float[Tensor, "*shape"], dim: int = -1
) -> tuple[Float[Tensor, "*doubled"], Float[Tensor, "*doubled"]]:
    """`cpila` and `cpila_slope` at once, sharing the exponentials.

    Raises:
        ValueError: `x` is not floating point or `dim` is out of range.
    """
    value, slope = _apply(x, dim, 0, 2)
    return value, slope
