"""Zero-padded convolutions that keep the size of the image, and their transposes."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, linear
from torch.nn.grad import conv2d_weight


def same_conv2d(
    x: Float[Tensor, "batch inputs height width"],
    weight: Float[Tensor, "outputs inputs rows columns"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "batch outputs height width"]:
    """W∗x + b."""
    if is_matrix(weight, x):
        return linear(x.flatten(1), weight.flatten(1), bias)[..., None, None]
    if _is_pointwise(weight, x):
        return _over_pixels(weight.flatten(1), x, bias)
    return conv2d(x, weight, bias, padding=_padding(weight))


def same_conv2d_transpose(
    y: Float[Tensor, "batch outputs height width"],
    weight: Float[Tensor, "outputs inputs rows columns"],
) -> Float[Tensor, "batch inputs height width"]:
    """Wᵀ y for the W of `same_conv2d`."""
    if is_matrix(weight, y):
        return (y.flatten(1) @ weight.flatten(1))[..., None, None]
    if _is_pointwise(weight, y):
        return _over_pixels(weight.flatten(1).T, y, None)
    return conv_transpose2d(y, weight, padding=_padding(weight))


def same_conv2d_weight_gradient(
    x: Float[Tensor, "batch inputs height width"],
    y: Float[Tensor, "batch outputs height width"],
    weight: Float[Tensor, "outputs inputs rows columns"],
) -> Float[Tensor, "outputs inputs rows columns"]:
    """The gradient of ⟨W∗x, y⟩ by W."""
    if is_matrix(weight, x):
        return (y.flatten(1).T @ x.flatten(1)).reshape(weight.shape)
    if _is_pointwise(weight, x):
        return torch.bmm(y.flatten(2), x.flatten(2).mT).sum(0).reshape(weight.shape)
    gradient: Tensor = conv2d_weight(x, weight.shape, y, padding=_padding(weight))  # type: ignore[no-untyped-call]  # torch gives it no types
    return gradient


def is_matrix(weight: Tensor, x: Tensor) -> bool:
    """Whether images are single pixels, whose convolution is a product of matrices: far quicker."""
    return weight.shape[2:].numel() == 1 and x.shape[2:].numel() == 1


def _is_pointwise(weight: Tensor, x: Tensor) -> bool:
    """Whether to multiply pixel by pixel: 1.3 to 8 times quicker than a convolution on a CPU.

    The weight's gradient is then made image by image, so this is for weights no larger than that.
    """
    outputs, inputs = weight.shape[:2]
    per_image = (outputs + inputs) * x.shape[2:].numel()
    return weight.shape[2:].numel() == 1 and outputs * inputs <= per_image


def _over_pixels(matrix: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    pixels, matrices = x.flatten(2), matrix.expand(x.shape[0], *matrix.shape)
    shape = (x.shape[0], matrix.shape[0], *x.shape[2:])
    if bias is None:
        return torch.bmm(matrices, pixels).reshape(shape)
    return torch.baddbmm(bias.unsqueeze(1), matrices, pixels).reshape(shape)


def _padding(weight: Tensor) -> tuple[int, int]:
    return weight.shape[-2] // 2, weight.shape[-1] // 2
