"""The padded convolution, its transpose, and the gradient of both by the kernel.

Left to itself, torch differentiates a convolution by others that run wherever the backward pass is,
where cuDNN may round float32 to tf32. These three are each other's derivatives, to any order, and
whichever is computed is computed exactly.
"""

# ruff: noqa: ANN401 (what autograd passes to a Function has no type)

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from flow_solvers.precision import without_autocast
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import conv2d, pad
from torch.nn.grad import conv2d_weight

from flow_kernels.autograd import (
    forward_mode,
    is_differentiated,
    keep_signature,
    primals,
)
from flow_kernels.inverse_conv.orders import adjoint, canonical, flipped, padding


def convolve(z: Tensor, kernel: Tensor, orders: list[int], *, transposed: bool) -> Tensor:
    """T z or Tᵀ z; compilers see torch's own convolution, in the precision that torch is set to."""
    if is_differentiated(z, kernel) and not torch.compiler.is_compiling():
        return cast(Tensor, _Convolve.apply(z, kernel, orders, transposed))
    return _convolve(z, kernel, orders, transposed)


def products(left: Tensor, right: Tensor, orders: list[int], size: Sequence[int]) -> Tensor:
    """Gradient of ⟨left, T right⟩ by the kernels, which have that size."""
    if is_differentiated(left, right) and not torch.compiler.is_compiling():
        return cast(Tensor, _Products.apply(left, right, orders, list(size)))
    return _products(left, right, orders, list(size))


def over_samples(
    operation: Callable[..., Tensor], count: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Tensor, int]:
    """The `vmap` rule of an operation like `convolve`: samples are more images, or more groups."""
    x, kernel, orders, transposed = args
    x_dim, kernel_dim, _, _ = in_dims
    if kernel_dim is None:
        images = x.movedim(x_dim, 0)
        y = operation(images.flatten(0, 1), kernel, orders, transposed=transposed)
        return y.reshape(images.shape), 0
    images = _beside(x, x_dim, count)
    if not count:
        return images.clone(), 1
    kernels = kernel.movedim(kernel_dim, 0).flatten(0, 1)
    y = operation(images.flatten(1, 2), kernels, orders * count, transposed=transposed)
    return y.reshape(images.shape), 1


def _beside(x: Tensor, dim: int | None, count: int) -> Float[Tensor, "batch samples channels h w"]:
    """The samples of each image beside each other."""
    images = x.unsqueeze(1) if dim is None else x.movedim(dim, 1)
    return images.expand(-1, count, -1, -1, -1)


def _convolve(z: Tensor, kernel: Tensor, orders: list[int], transposed: bool) -> Tensor:
    if transposed:
        orders, kernel = adjoint(orders), kernel.transpose(1, 2)
    if len(set(orders)) > 1:
        parts = zip(z.chunk(len(kernel), 1), torch.split(kernel, 1), orders, strict=True)
        return torch.cat([_convolve(p, k, [o], transposed=False) for p, k, o in parts], 1)
    groups, _, _, height, width = kernel.shape
    padded = pad(z, padding(orders[0], height, width))
    with without_autocast(z):
        return conv2d(padded, flipped(kernel.flatten(0, 1), orders[0]), groups=groups)


def _products(
    left: Tensor, right: Tensor, orders: list[int], size: list[int]
) -> Float[Tensor, "groups out_channels in_channels height width"]:
    order, groups = orders[0], len(orders)
    if len(set(orders)) > 1:
        left, right, order = canonical(left, orders), canonical(right, orders), 0
    left_side, right_side, top, bottom = padding(order, size[3], size[4])
    shape = (size[0] * size[1], *size[2:])
    # Channels last: padding and copying move whole pixels, and few channels are multiplied quicker.
    # Not by memory_format, which vmap does not know.
    by_pixel = pad(right.permute(0, 2, 3, 1), (0, 0, left_side, right_side, top, bottom))
    padded, pixels = (
        t.permute(0, 3, 1, 2) for t in (by_pixel, left.permute(0, 2, 3, 1).contiguous())
    )
    with without_autocast(left):
        gradient: Tensor = conv2d_weight(padded, shape, pixels, groups=groups)  # type: ignore[no-untyped-call] # torch has no types here
    return flipped(gradient, order).view(size)


class _Convolve(Function):
    """(z, kernel) ↦ T z, or Tᵀ z."""

    @staticmethod
    def forward(z: Tensor, kernel: Tensor, orders: list[int], transposed: bool) -> Tensor:
        return _convolve(z, kernel, orders, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, kernel, ctx.orders, ctx.transposed = inputs
        ctx.save_for_backward(z, kernel)
        ctx.save_for_forward(z, kernel)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (along,), (z, kernel) = cotangents, ctx.saved_tensors
        by_z = by_kernel = None
        if ctx.needs_input_grad[0]:
            by_z = convolve(along, kernel, ctx.orders, transposed=not ctx.transposed)
        if ctx.needs_input_grad[1]:
            left, right = (z, along) if ctx.transposed else (along, z)
            by_kernel = products(left, right, ctx.orders, kernel.shape)
        return by_z, by_kernel, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        with forward_mode():
            z, kernel = primals(ctx.saved_tensors)
            by_z, by_kernel, _, _ = tangents
            moved = convolve(by_z, kernel, ctx.orders, transposed=ctx.transposed)
            return moved + convolve(z, by_kernel, ctx.orders, transposed=ctx.transposed)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        return over_samples(convolve, info.batch_size, in_dims, args)


class _Products(Function):
    """(left, right) ↦ the gradient of ⟨left, T right⟩ by the kernel."""

    @staticmethod
    def forward(left: Tensor, right: Tensor, orders: list[int], size: list[int]) -> Tensor:
        return _products(left, right, orders, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        left, right, ctx.orders, ctx.size = inputs
        ctx.save_for_backward(left, right)
        ctx.save_for_forward(left, right)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (kernel,), (left, right) = cotangents, ctx.saved_tensors
        by_left = by_right = None
        if ctx.needs_input_grad[0]:
            by_left = convolve(right, kernel, ctx.orders, transposed=False)
        if ctx.needs_input_grad[1]:
            by_right = convolve(left, kernel, ctx.orders, transposed=True)
        return by_left, by_right, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        with forward_mode():
            left, right = primals(ctx.saved_tensors)
            by_left, by_right, _, _ = tangents
            moved = products(by_left, right, ctx.orders, ctx.size)
            return moved + products(left, by_right, ctx.orders, ctx.size)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        left, right, orders, size = args
        count: int = info.batch_size
        if not count:
            return left.new_zeros(0, *size), 0
        lefts = _beside(left, in_dims[0], count).flatten(1, 2)
        rights = _beside(right, in_dims[1], count).flatten(1, 2)
        kernels = products(lefts, rights, orders * count, [count * size[0], *size[1:]])
        return kernels.view(count, *size), 0


keep_signature(_Convolve)
keep_signature(_Products)
