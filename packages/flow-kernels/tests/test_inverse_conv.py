"""Inverse convolution against a dense solve, pixel by pixel, in float64."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from flow_kernels import Order, inverse_conv2d, padded_conv2d
from flow_kernels.inverse_conv.blocks import block_shape
from flow_kernels.inverse_conv.wavefront import solve_canonical
from torch import Tensor
from torch.autograd import grad

ORDERS: tuple[Order, ...] = ("TL", "TR", "BL", "BR")


def problem(
    channels: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    *,
    batch: int = 3,
    groups: int = 1,
    scale: float = 0.5,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Images and a weight whose taps have the given scale."""
    g = torch.Generator().manual_seed(channels + 10 * size[0] + 100 * kernel[0])
    inputs = channels // groups
    weight = torch.randn(channels, inputs, *kernel, generator=g, dtype=torch.float64)
    x = torch.randn(batch, channels, *size, generator=g, dtype=torch.float64)
    return x.to(dtype), (scale * weight / math.sqrt(inputs * math.prod(kernel))).to(dtype)


def dense_operator(
    weight: Tensor, size: tuple[int, int], order: Order, log_diagonal: Tensor | None = None
) -> Tensor:
    """The matrix of T on flattened (channel, row, column), written out from its definition."""
    channels, _, kh, kw = weight.shape
    h, w = size
    matrix = torch.zeros(channels, h, w, channels, h, w, dtype=torch.float64)
    up = 1 if order[0] == "T" else -1
    left = 1 if order[1] == "L" else -1
    for out, into, y, x, i, j in product(
        *map(range, (channels, channels, h, w, kh, kw)),
    ):
        row, column = y - up * i, x - left * j
        if not (0 <= row < h and 0 <= column < w):
            continue
        tap = float(weight[out, into, kh - 1 - i, kw - 1 - j])
        if i == j == 0 and into >= out:
            diagonal = 1.0 if log_diagonal is None else math.exp(float(log_diagonal[out]))
            tap = diagonal if into == out else 0.0
        matrix[out, y, x, into, row, column] = tap
    return matrix.reshape(channels * h * w, -1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("channels", "size", "kernel"),
    [
        (1, (5, 5), (3, 3)),
        (2, (4, 7), (2, 3)),
        (3, (6, 3), (3, 2)),
        (4, (5, 4), (1, 3)),
        (6, (3, 4), (3, 3)),
        (12, (4, 3), (2, 2)),
        (2, (2, 3), (4, 5)),
        (3, (1, 1), (3, 3)),
        (2, (3, 3), (1, 1)),
    ],
)
def test_values_are_those_of_a_dense_solve(
    order: Order, channels: int, size: tuple[int, int], kernel: tuple[int, int]
) -> None:
    x, weight = problem(channels, size, kernel)
    log_diagonal = torch.linspace(-0.5, 0.5, channels, dtype=torch.float64)
    for diagonal in (None, log_diagonal):
        matrix = dense_operator(weight, size, order, diagonal)
        expected = torch.linalg.solve(matrix, x.flatten(1).mT).mT.view_as(x)
        z = inverse_conv2d(x, weight, orders=order, log_diagonal=diagonal)
        torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)
        product_ = (z.flatten(1) @ matrix.mT).view_as(x)
        forward = padded_conv2d(z, weight, orders=order, log_diagonal=diagonal)
        torch.testing.assert_close(forward, product_, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_the_log_determinant_is_that_of_the_diagonal(order: Order) -> None:
    _, weight = problem(3, (4, 5), (3, 2))
    log_diagonal = torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64)
    sign, value = torch.linalg.slogdet(dense_operator(weight, (4, 5), order, log_diagonal))
    assert float(sign) == 1.0
    torch.testing.assert_close(value, 20 * log_diagonal.sum())


@pytest.mark.parametrize("channels", [1, 3, 5, 12, 30, 50])
@pytest.mark.parametrize("size", [(16, 16), (17, 13), (1, 20)])
def test_float32_round_trip(channels: int, size: tuple[int, int]) -> None:
    x, weight = problem(channels, size, (3, 3), dtype=torch.float32)
    z = inverse_conv2d(x, weight)
    assert z.dtype == torch.float32
    error = (padded_conv2d(z, weight) - x).abs().max() / x.abs().max()
    assert float(error) <= 1e-5
    exact = inverse_conv2d(x.double(), weight.double())
    torch.testing.assert_close(z.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "size", "shape"),
    [
        (3, (7, 9), (4, 4)),
        (3, (4, 40), (2, 8)),
        (3, (40, 4), (8, 2)),
        (3, (1, 40), (1, 16)),
        (4, (7, 9), (2, 4)),
        (4, (40, 4), (4, 2)),
        (4, (1, 40), (1, 8)),
        (12, (7, 9), (2, 2)),
        (12, (1, 40), (1, 4)),
        (24, (7, 9), (1, 2)),
        (49, (7, 9), (1, 1)),
    ],
)
def test_every_block_shape_gives_the_same(
    channels: int, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    assert block_shape(channels, size, (3, 2)) == shape
    x, weight = problem(channels, size, (3, 2), batch=1)
    kernel = weight.clone()
    kernel[:, :, -1, -1] = kernel[:, :, -1, -1].triu(1) + torch.eye(channels)
    z = solve_canonical(x, kernel, upper=True)
    torch.testing.assert_close(padded_full(z, kernel), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "size", "products"),
    [(1, (28, 28), 26), (12, (16, 16), 30), (48, (16, 16), 93), (3, (4, 64), 18), (1, (1, 96), 18)],
)
def test_matrix_products_of_a_solve(
    channels: int, size: tuple[int, int], products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Size] = []
    addmm_ = torch.Tensor.addmm_

    def counted(self: Tensor, seen: Tensor, taps: Tensor, *, alpha: float) -> Tensor:
        calls.append(taps.shape)
        return addmm_(self, seen, taps, alpha=alpha)

    monkeypatch.setattr(torch.Tensor, "addmm_", counted)
    inverse_conv2d(*problem(channels, size, (3, 3)))
    assert len(calls) == products


def padded_full(z: Tensor, kernel: Tensor) -> Tensor:
    """The canonical padded convolution with every tap of the kernel as it is."""
    kh, kw = kernel.shape[2:]
    return torch.nn.functional.conv2d(torch.nn.functional.pad(z, (kw - 1, 0, kh - 1, 0)), kernel)


@pytest.mark.parametrize("orders", [ORDERS, ("BR",) * 4, ("TL", "TL", "BR", "BR")])
def test_groups_have_kernels_and_orders_of_their_own(orders: Sequence[Order]) -> None:
    x, weight = problem(8, (5, 6), (3, 3), groups=4)
    z = inverse_conv2d(x, weight, orders=orders)
    parts = zip(x.chunk(4, 1), weight.chunk(4), orders, strict=True)
    alone = torch.cat([inverse_conv2d(p, k, orders=o) for p, k, o in parts], 1)
    torch.testing.assert_close(z, alone, rtol=0, atol=0)
    torch.testing.assert_close(padded_conv2d(z, weight, orders=orders), x)


def test_layout_and_batch_size_do_not_matter() -> None:
    x, weight = problem(5, (6, 7), (3, 3), batch=4)
    z = inverse_conv2d(x, weight)
    apart = x.repeat_interleave(2, 3)[..., ::2]
    assert not apart.is_contiguous()
    for other in (x.to(memory_format=torch.channels_last), apart):
        torch.testing.assert_close(inverse_conv2d(other, weight), z, rtol=1e-13, atol=1e-13)
    one_by_one = torch.cat([inverse_conv2d(image[None], weight) for image in x])
    torch.testing.assert_close(one_by_one, z, rtol=1e-12, atol=1e-12)
    assert inverse_conv2d(x[:0], weight).shape == (0, 5, 6, 7)
    many = x[:1].expand(1100, -1, -1, -1)
    torch.testing.assert_close(inverse_conv2d(many, weight)[-1], z[0], rtol=1e-12, atol=1e-12)


def test_what_is_not_used_of_the_last_tap_has_no_influence() -> None:
    x, weight = problem(4, (4, 4), (2, 2))
    other = weight.clone()
    unused = torch.ones(4, 4, dtype=torch.bool).triu()
    other[:, :, -1, -1].masked_fill_(unused, float("nan"))
    torch.testing.assert_close(inverse_conv2d(x, other), inverse_conv2d(x, weight), rtol=0, atol=0)


def test_a_nan_stays_in_its_image() -> None:
    x, weight = problem(2, (6, 6), (3, 3))
    z = inverse_conv2d(x, weight)
    x[1, 0, 2, 3] = float("nan")
    bad = inverse_conv2d(x, weight)
    for image in (0, 2):
        torch.testing.assert_close(bad[image], z[image], rtol=0, atol=1e-13)
    assert bool(bad[1, :, 2:, 4:].isnan().all())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_solved_in_float32(half: torch.dtype) -> None:
    x, weight = (t.to(half) for t in problem(6, (8, 8), (3, 3)))
    diagonal = torch.linspace(-0.3, 0.3, 6).to(half)
    for log_diagonal in (None, diagonal):
        z = inverse_conv2d(x, weight, log_diagonal=log_diagonal)
        assert z.dtype == half
        wide = None if log_diagonal is None else log_diagonal.double()
        exact = inverse_conv2d(x.double(), weight.double(), log_diagonal=wide)
        # One rounding, and a unit more where float32 fell on the other side of a tie.
        torch.testing.assert_close(z.double(), exact, rtol=torch.finfo(half).eps, atol=1e-6)


def test_autocast_changes_nothing() -> None:
    x, weight = problem(6, (8, 8), (3, 3), dtype=torch.float32)
    z, again = inverse_conv2d(x, weight), padded_conv2d(x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(inverse_conv2d(x, weight), z)
        assert torch.equal(padded_conv2d(x, weight), again)


def test_derivatives_inside_autocast_are_those_outside() -> None:
    x, weight = problem(6, (8, 8), (3, 3), dtype=torch.float32)

    def twice(operation: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        by_x, by_weight = grad(operation(*leaves).square().sum(), leaves, create_graph=True)
        return by_x, by_weight, *grad(by_x.sum() + by_weight.square().sum(), leaves)

    expected = twice(inverse_conv2d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = twice(inverse_conv2d)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(600, 1), (1, 600)])
def test_memory_grows_with_the_image_and_not_with_its_square(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    largest: list[int] = []
    plain = Tensor.new_zeros

    def counted(self: Tensor, *shape: Any, **options: Any) -> Tensor:
        made = plain(self, *shape, **options)
        largest.append(made.numel())
        return made

    monkeypatch.setattr(Tensor, "new_zeros", counted)
    x, weight = problem(2, size, (3, 3), batch=1)
    z = inverse_conv2d(x, weight)
    torch.testing.assert_close(padded_conv2d(z, weight), x, rtol=1e-12, atol=1e-12)
    assert max(largest) < 20 * x.numel()


def test_meta_tensors_have_a_shape() -> None:
    x, weight = problem(4, (5, 6), (2, 2))
    assert inverse_conv2d(x.to("meta"), weight.to("meta")).shape == x.shape
    assert padded_conv2d(x.to("meta"), weight.to("meta")).shape == x.shape


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_one_clear_error() -> None:
    x, weight = problem(4, (4, 4), (3, 3))
    with pytest.raises(ValueError, match=r"for images of 4 channels, got \(4, 3, 3, 3\)"):
        inverse_conv2d(x, weight[:, :3])
    with pytest.raises(ValueError, match="4 channels, got"):
        padded_conv2d(x, weight[:2, :2])
    with pytest.raises(ValueError, match="one order or one for each of 2 groups"):
        inverse_conv2d(x, weight[:, :2], orders=("TL", "TR", "BL"))
    with pytest.raises(ValueError, match=r"float64 on cpu, torch\.float32 on cpu"):
        inverse_conv2d(x, weight.float())
    with pytest.raises(ValueError, match=r"log_diagonal of shape \(4,\), got \(3,\)"):
        inverse_conv2d(x, weight, log_diagonal=torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"one floating point dtype.*float32 on cpu$"):
        inverse_conv2d(x, weight, log_diagonal=torch.zeros(4))
    for wrong in (x[0], x[:, :, :0], x[None]):
        with pytest.raises(ValueError, match=r"images of shape \(batch, channels, height, width\)"):
            padded_conv2d(wrong, weight)
    with pytest.raises(ValueError, match=r"got \(4, 4, 3\)"):
        padded_conv2d(x, weight[..., 0])
