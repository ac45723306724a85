"""Derivatives of the inverse convolution, to second order and in every mode."""

import math
from functools import partial
from typing import Any, cast

import pytest
import torch
from flow_kernels import Order, inverse_conv2d, padded_conv2d
from flow_kernels.inverse_conv import op
from torch import Tensor
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck

ORDERS: tuple[Order, ...] = ("TL", "TR", "BL", "BR")
CASES = [
    (1, 1, (3, 4), (2, 3)),
    (2, 1, (3, 2), (3, 3)),
    (3, 1, (2, 3), (2, 1)),
    (4, 4, (3, 2), (2, 2)),
    (4, 2, (2, 2), (3, 2)),
]


def inputs(
    channels: int, groups: int, size: tuple[int, int], kernel: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = (2, channels, *size), (channels, channels // groups, *kernel), (channels,)
    scales = 1.0, 0.5 / math.sqrt(math.prod(kernel)), 0.3
    x, weight, log_diagonal = (
        (s * torch.randn(shape, generator=g, dtype=torch.float64)).requires_grad_()
        for s, shape in zip(scales, shapes, strict=True)
    )
    return x, weight, log_diagonal


def orders(groups: int) -> Order | tuple[Order, ...]:
    return "BL" if groups == 1 else ORDERS[-groups:]


def solve(groups: int, x: Tensor, weight: Tensor, log_diagonal: Tensor) -> Tensor:
    return inverse_conv2d(x, weight, orders=orders(groups), log_diagonal=log_diagonal)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_in_both_modes(
    case: tuple[int, int, tuple[int, int], tuple[int, int]],
) -> None:
    def function(x: Tensor, weight: Tensor, log_diagonal: Tensor) -> Tensor:
        return solve(case[1], x, weight, log_diagonal)

    assert gradcheck(function, inputs(*case), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, inputs(*case), check_fwd_over_rev=True)


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_of_every_order(order: Order) -> None:
    x, weight, _ = inputs(2, 1, (2, 3), (2, 2))
    assert gradcheck(partial(inverse_conv2d, orders=order), (x, weight))
    assert gradcheck(partial(padded_conv2d, orders=order), (x, weight))


def test_the_inverse_function_theorem_holds() -> None:
    """The gradients of z(x, K) are those of x(z, K), carried over."""
    x, weight, log_diagonal = inputs(4, 1, (5, 6), (3, 3))
    z = inverse_conv2d(x, weight, log_diagonal=log_diagonal)
    along = torch.randn_like(z)
    by_x, *by_kernel = grad((z * along).sum(), (x, weight, log_diagonal))
    leaf = z.detach().requires_grad_()
    forward = padded_conv2d(leaf, weight, log_diagonal=log_diagonal)
    by_z, *other = grad((forward * by_x).sum(), (leaf, weight, log_diagonal))
    torch.testing.assert_close(by_z, along)
    for got, expected in zip(by_kernel, other, strict=True):
        torch.testing.assert_close(got, -expected)


def test_the_derivative_of_the_unused_part_is_zero() -> None:
    x, weight, _ = inputs(4, 1, (3, 3), (2, 2))
    (by_weight,) = grad(inverse_conv2d(x, weight).square().sum(), weight)
    corner = by_weight[:, :, -1, -1]
    assert not bool(corner.triu().any())
    assert bool((corner.tril(-1) != 0).any(1)[1:].all())


def test_only_what_is_needed_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    plain = op._products  # pyright: ignore[reportPrivateUsage] # what is computed is counted inside

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return plain(*arguments)

    monkeypatch.setattr(op, "_products", counted)
    x, weight, _ = inputs(2, 1, (3, 3), (2, 2))
    both = grad(inverse_conv2d(x, weight).sum(), (x, weight))
    assert len(calls) == 1
    (by_x,) = grad(inverse_conv2d(x, weight.detach()).sum(), x)
    assert len(calls) == 1
    (by_weight,) = grad(inverse_conv2d(x.detach(), weight).sum(), weight)
    torch.testing.assert_close((by_x, by_weight), both)


def test_nested_forward_mode_is_right() -> None:
    """Of torch's traps the silent one: a tangent that is zero."""
    x, weight, _ = inputs(2, 1, (3, 3), (2, 2))
    x, weight = x.detach(), weight.detach()
    direction, other = torch.randn_like(weight), torch.randn_like(weight)

    def first(w: Tensor) -> Tensor:
        moved: Tensor = torch.func.jvp(partial(inverse_conv2d, x), (w,), (direction,))[1]
        return moved

    value = torch.func.jvp(first, (weight,), (other,))[1]
    step = 1e-5
    ahead, behind = first(weight + step * other), first(weight - step * other)
    torch.testing.assert_close(value, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)
    assert float(value.abs().max()) > 1e-3


def test_dual_numbers_are_not_dropped() -> None:
    x, weight, _ = inputs(2, 1, (3, 3), (2, 2))
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), tangent)  # type: ignore[no-untyped-call]
        z = inverse_conv2d(dual, weight.detach())
        moved = cast(Tensor, forward_ad.unpack_dual(z).tangent)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(moved, inverse_conv2d(tangent, weight.detach()))


@pytest.mark.parametrize(
    ("by_x", "by_weight"),
    [(0, None), (3, None), (None, 0), (None, 3), (1, 0), (0, 1), (2, 0), (3, 4), (4, 2)],
)
def test_vmap(by_x: int | None, by_weight: int | None) -> None:
    count = 3
    x, weight, _ = (t.detach() for t in inputs(4, 2, (3, 4), (2, 2)))
    factors = torch.linspace(0.5, 1, count, dtype=torch.float64)
    xs = x if by_x is None else torch.stack([f * x for f in factors], by_x)
    weights = weight if by_weight is None else torch.stack([f * weight for f in factors], by_weight)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return inverse_conv2d(x, weight, orders=("TL", "BR"))

    got = torch.vmap(function, in_dims=(by_x, by_weight))(xs, weights)
    alone = torch.stack(
        [
            function(
                xs if by_x is None else xs.select(by_x, i),
                weights if by_weight is None else weights.select(by_weight, i),
            )
            for i in range(count)
        ]
    )
    torch.testing.assert_close(got, alone)


@pytest.mark.parametrize(("by_x", "by_weight"), [(0, None), (None, 0), (3, 1)])
def test_vmap_over_nothing(by_x: int | None, by_weight: int | None) -> None:
    x, weight = torch.ones(2, 4, 3, 5), torch.ones(4, 2, 2, 2)
    xs = x if by_x is None else torch.stack([x], by_x).narrow(by_x, 0, 0)
    weights = (
        weight if by_weight is None else torch.stack([weight], by_weight).narrow(by_weight, 0, 0)
    )
    got = torch.vmap(inverse_conv2d, in_dims=(by_x, by_weight))(xs, weights)
    assert got.shape == (0, *x.shape)


def test_jacobians_of_torch_func() -> None:
    x, weight, _ = (t.detach() for t in inputs(2, 1, (3, 2), (2, 2)))
    by_reverse = torch.func.jacrev(inverse_conv2d)(x, weight)
    by_forward = torch.func.jacfwd(inverse_conv2d)(x, weight)
    torch.testing.assert_close(by_reverse, by_forward)
    second = torch.func.jacrev(torch.func.jacrev(partial(inverse_conv2d, x)))(weight)
    other = torch.func.jacfwd(torch.func.jacrev(partial(inverse_conv2d, x)))(weight)
    torch.testing.assert_close(second, other)
    assert float(second.abs().max()) > 1e-3
