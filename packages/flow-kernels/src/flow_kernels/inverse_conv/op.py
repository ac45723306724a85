"""The public operations: z = T⁻¹ x and x = T z, differentiable to any order.

The solve is closed under differentiation: its gradients are solves with the transposed convolution
and sums of products of pixels, its tangents are solves. Compilers see it as one operation.
"""

# ruff: noqa: ANN401 (what autograd passes to a Function has no type)

from collections.abc import Sequence
from typing import Any, cast

import torch
from flow_solvers.precision import widen, without_autocast
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from flow_kernels.autograd import (
    forward_mode,
    is_differentiated,
    is_plain_cpu,
    is_transformed,
    keep_signature,
    primals,
)
from flow_kernels.inverse_conv import gpu
from flow_kernels.inverse_conv.convolution import convolve, over_samples, products
from flow_kernels.inverse_conv.orders import Order, adjoint, canonical, codes
from flow_kernels.inverse_conv.wavefront import solve_canonical

_IMAGES = 4
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def inverse_conv2d(
    x: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "channels group_channels kernel_height kernel_width"],
    *,
    orders: Order | Sequence[Order] = "TL",
    log_diagonal: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """z = T⁻¹ x, where T is `padded_conv2d`; log abs det is -height · width · Σ log_diagonal.

    Half precision is solved in float32 and rounded once, whatever the autocast state. Only z and
    the kernel are kept for the backward pass.

    Args:
        x: Images.
        weight: As for `padded_conv2d`.
        orders: From which corner each group looks, or one for all.
        log_diagonal: As for `padded_conv2d`.

    Raises:
        ValueError: As for `padded_conv2d`.
    """
    numbers, kernel = _prepared(x, weight, orders, log_diagonal)
    return _solve(widen(x), kernel, numbers, transposed=False).to(x.dtype)


def padded_conv2d(
    z: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "channels group_channels kernel_height kernel_width"],
    *,
    orders: Order | Sequence[Order] = "TL",
    log_diagonal: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """x = T z, the convolution (cross-correlation) that is padded on one corner of the image.

    The last tap, weight[:, :, -1, -1], sees the pixel itself. Of its matrix only what is below the
    diagonal is used; on the diagonal stands exp(log_diagonal), or one. So T is triangular, and log
    abs det T = height · width · Σ log_diagonal.

    Args:
        z: Images.
        weight: A kernel for every group of channels, in the orientation of the order TL; as many
            groups as weight.shape[1] goes into the channels.
        orders: TL pads above and to the left, TR above and to the right, BL and BR below; one for
            all groups or one for each.
        log_diagonal: Logarithms of the diagonal of the last tap.

    Raises:
        ValueError: Shapes do not fit each other, an order is unknown, or dtypes differ.
    """
    numbers, kernel = _prepared(z, weight, orders, log_diagonal)
    return convolve(widen(z), kernel, numbers, transposed=False).to(z.dtype)


def _prepared(
    x: Tensor, weight: Tensor, orders: Order | Sequence[Order], log_diagonal: Tensor | None
) -> tuple[list[int], Tensor]:
    """The orders as numbers, and the kernels in the precision that is computed in."""
    tensors = (x, weight) if log_diagonal is None else (x, weight, log_diagonal)
    if x.dtype not in _DTYPES or any((t.dtype, t.device) != (x.dtype, x.device) for t in tensors):
        came = ", ".join(f"{t.dtype} on {t.device}" for t in tensors)
        raise ValueError(
            "expected images, weight and log_diagonal of one floating point dtype on one device, "
            f"got {came}"
        )
    groups = _groups(x, weight)
    if log_diagonal is not None and log_diagonal.shape != x.shape[1:2]:
        raise ValueError(
            f"expected a log_diagonal of shape ({x.shape[1]},), got {tuple(log_diagonal.shape)}"
        )
    wide = None if log_diagonal is None else widen(log_diagonal)
    return codes(orders, groups), _triangular(widen(weight), groups, wide)


def _groups(x: Tensor, weight: Tensor) -> int:
    if x.ndim != _IMAGES or min(x.shape[1:]) == 0:
        raise ValueError(
            f"expected images of shape (batch, channels, height, width), got {tuple(x.shape)}"
        )
    channels, inputs, *size = weight.shape if weight.ndim == _IMAGES else (0, 0, 0, 0)
    fits = channels == x.shape[1] and inputs > 0 and channels % inputs == 0 and min(size) > 0
    if not fits:
        raise ValueError(
            f"expected a weight of shape (channels, channels/groups, height, width) for images of "
            f"{x.shape[1]} channels, got {tuple(weight.shape)}"
        )
    return channels // inputs


def _triangular(
    weight: Tensor, groups: int, log_diagonal: Tensor | None
) -> Float[Tensor, "groups out_channels in_channels height width"]:
    """The kernels of all groups, with what is not used of the last tap replaced."""
    size, to_last_tap = weight.shape[1], (weight.shape[3] - 1, 0, weight.shape[2] - 1, 0)
    kernel = weight.view(groups, size, *weight.shape[1:])
    diagonal = (
        kernel.new_ones(groups, size)
        if log_diagonal is None
        else log_diagonal.exp().view(groups, size)
    )
    unit = torch.eye(size, dtype=kernel.dtype, device=kernel.device)
    corner = pad((unit * diagonal.unsqueeze(-1))[..., None, None], to_last_tap)
    unused = torch.ones_like(unit, dtype=torch.bool).triu()
    fixed: Tensor = pad(unused[..., None, None], to_last_tap)
    return torch.where(fixed, corner, kernel)


def _solve(x: Tensor, kernel: Tensor, orders: list[int], *, transposed: bool) -> Tensor:
    """T⁻¹ x or T⁻ᵀ x."""
    if torch.compiler.is_compiling():
        if is_transformed():
            raise RuntimeError(
                "inverse_conv2d inside a torch.func transform or forward mode inside "
                "torch.compile: the compiled operation would lose tangents; transform the "
                "compiled function instead"
            )
        return cast(Tensor, _solve_raw(x, kernel, orders, transposed))
    if is_differentiated(x, kernel):
        return cast(Tensor, _Solve.apply(x, kernel, orders, transposed))
    return _solve_plain(x, kernel, orders, transposed=transposed)


def _solve_plain(x: Tensor, kernel: Tensor, orders: list[int], *, transposed: bool) -> Tensor:
    """Without derivatives; where no one else has to see the operation, without the dispatcher."""
    direct = not torch.compiler.is_compiling() and is_plain_cpu(x, kernel)
    solve = _solve_groups if direct else _solve_raw
    return cast(Tensor, solve(x, kernel, orders, transposed))


def _solve_groups(x: Tensor, kernel: Tensor, orders: list[int], transposed: bool) -> Tensor:
    if transposed:
        orders, kernel = adjoint(orders), kernel.transpose(1, 2)
    with without_autocast(x):
        return _solve_each(x, kernel, orders, upper=transposed)


def _solve_each(x: Tensor, kernel: Tensor, orders: list[int], *, upper: bool) -> Tensor:
    if gpu.serves(x, kernel.shape[1]):
        return gpu.solve(x, kernel, orders, upper=upper)
    parts = zip(canonical(x, orders).chunk(len(kernel), 1), kernel, strict=True)
    solved = [solve_canonical(part, own, upper=upper) for part, own in parts]
    return canonical(torch.cat(solved, 1) if len(solved) > 1 else solved[0], orders)


_solve_raw = torch.library.custom_op(
    "flow_kernels::solve_padded_conv", _solve_groups, mutates_args=()
)


@_solve_raw.register_fake
def _(x: Tensor, kernel: Tensor, orders: list[int], transposed: bool) -> Tensor:
    del kernel, orders, transposed
    return x.new_empty(x.shape)


class _Solve(Function):
    """(x, kernel) ↦ T⁻¹ x, or T⁻ᵀ x."""

    @staticmethod
    def forward(x: Tensor, kernel: Tensor, orders: list[int], transposed: bool) -> Tensor:
        return _solve_plain(x, kernel, orders, transposed=transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, kernel, ctx.orders, ctx.transposed = inputs
        ctx.save_for_backward(output, kernel)
        ctx.save_for_forward(output, kernel)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        return _pull(ctx, cotangents[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        with forward_mode():
            z, kernel = primals(ctx.saved_tensors)
            by_x, by_kernel, _, _ = tangents
            moved = convolve(z, by_kernel, ctx.orders, transposed=ctx.transposed)
            return _solve(by_x - moved, kernel, ctx.orders, transposed=ctx.transposed)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        return over_samples(_solve, info.batch_size, in_dims, args)


keep_signature(_Solve)


def _pull(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
    """With (Tᵀ) u = g: u by x, and -u zᵀ by the kernel."""
    z, kernel = ctx.saved_tensors
    u = _solve(along, kernel, ctx.orders, transposed=not ctx.transposed)
    if not ctx.needs_input_grad[1]:
        return u, None, None, None
    left, right = (z, u) if ctx.transposed else (u, z)
    return u, -products(left, right, ctx.orders, kernel.shape), None, None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, kernel, ctx.orders, ctx.transposed = inputs
    ctx.save_for_backward(output, kernel)


_solve_raw.register_autograd(_pull, setup_context=_keep)
