"""Convolutions that keep the size, against the routine of torch."""

import pytest
import torch
from flow_core.convolution import same_conv2d, same_conv2d_transpose
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import conv2d, conv_transpose2d

SHAPES = {
    "pointwise": (2, 3, 2, 4, 5, 1, 1),
    "one channel": (3, 1, 4, 2, 2, 1, 1),
    "wide for its image": (2, 9, 8, 1, 2, 1, 1),
    "one pixel": (2, 3, 2, 1, 1, 1, 1),
    "3x3": (2, 3, 2, 4, 5, 3, 3),
    "3x3 on one pixel": (2, 3, 2, 1, 1, 3, 3),
    "1x3": (2, 3, 2, 4, 5, 1, 3),
    "empty batch": (0, 3, 2, 4, 5, 1, 1),
}
Shape = tuple[int, int, int, int, int, int, int]
everywhere = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def tensors(shape: Shape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, inputs, outputs, height, width, rows, columns = shape
    torch.manual_seed(0)
    x = torch.randn(batch, inputs, height, width, dtype=torch.float64, requires_grad=True)
    y = torch.randn(batch, outputs, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, inputs, rows, columns, dtype=torch.float64, requires_grad=True)
    return x, y, weight, torch.randn(outputs, dtype=torch.float64, requires_grad=True)


@everywhere
def test_it_is_the_convolution(shape: Shape) -> None:
    x, y, weight, bias = tensors(shape)
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    for b in (bias, None):
        torch.testing.assert_close(same_conv2d(x, weight, b), conv2d(x, weight, b, padding=padding))
    torch.testing.assert_close(
        same_conv2d_transpose(y, weight), conv_transpose2d(y, weight, padding=padding)
    )


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "empty batch"])
def test_derivatives(name: str) -> None:
    x, y, weight, bias = tensors(SHAPES[name])
    for function, inputs in (
        (same_conv2d, (x, weight, bias)),
        (same_conv2d_transpose, (y, weight)),
    ):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_images_in_any_memory_order() -> None:
    x, _, weight, bias = tensors(SHAPES["pointwise"])
    expected = same_conv2d(x, weight, bias)
    strided = x.detach().repeat(1, 1, 2, 2)[:, :, : x.shape[2], : x.shape[3]]
    for other in (x.contiguous(memory_format=torch.channels_last), strided):
        torch.testing.assert_close(same_conv2d(other, weight, bias), expected)
