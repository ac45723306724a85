"""Derivatives of the inverse convolution, to second order and in every mode."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any, cast

import pytest
import torch
from flow_kernels import Order, inverse_conv2d, padded_conv2d
from flow_kernels.inverse_conv import convolution, op
from torch import Tensor
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

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


@pytest.mark.parametrize("case", CASES[2:], ids=str)
def test_the_padded_convolution_in_both_modes(
    case: tuple[int, int, tuple[int, int], tuple[int, int]],
) -> None:
    def function(z: Tensor, weight: Tensor, log_diagonal: Tensor) -> Tensor:
        return padded_conv2d(z, weight, orders=orders(case[1]), log_diagonal=log_diagonal)

    assert gradcheck(function, inputs(*case), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, inputs(*case), check_fwd_over_rev=True)


class Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as torch has it
    """Counts the convolutions inside the regions that compute exactly, and those outside."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as torch has it
        self._depth, self.inside, self.outside = 0, 0, 0
        monkeypatch.setattr(convolution, "without_autocast", self._region)

    @contextmanager
    def _region(self, like: Tensor) -> Generator[None]:
        assert like.is_floating_point()
        self._depth += 1
        yield
        self._depth -= 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if "conv" in func.name() and "solve" not in func.name():
            self.inside += self._depth > 0
            self.outside += self._depth == 0
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("operation", [inverse_conv2d, padded_conv2d])
def test_every_derivative_is_computed_exactly(
    operation: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The region that keeps a GPU from rounding surrounds whatever torch convolves."""
    x, weight, _ = inputs(4, 2, (3, 4), (2, 2))
    with Convolutions(monkeypatch) as found:
        y = operation(x, weight, orders=("TL", "BR"))
        first = grad(y.square().sum(), (x, weight), create_graph=True)
        after_first = found.inside
        grad([t.square().sum() for t in first], (x, weight))
        torch.func.jvp(partial(operation, orders=("TL", "BR")), (x, weight), (x, weight))
    assert 0 < after_first < found.inside
    assert found.outside == 0


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
    plain = convolution.products

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return plain(*arguments)

    monkeypatch.setattr(op, "products", counted)
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


@pytest.mark.parametrize("operation", [inverse_conv2d, padded_conv2d])
@pytest.mark.parametrize(
    ("by_x", "by_weight"),
    [(0, None), (3, None), (None, 0), (None, 3), (1, 0), (0, 1), (2, 0), (3, 4), (4, 2)],
)
def test_vmap(operation: Callable[..., Tensor], by_x: int | None, by_weight: int | None) -> None:
    count = 3
    x, weight, _ = (t.detach() for t in inputs(4, 2, (3, 4), (2, 2)))
    factors = torch.linspace(0.5, 1, count, dtype=torch.float64)
    xs = x if by_x is None else torch.stack([f * x for f in factors], by_x)
    weights = weight if by_weight is None else torch.stack([f * weight for f in factors], by_weight)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return operation(x, weight, orders=("TL", "BR"))

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


@pytest.mark.parametrize("operation", [inverse_conv2d, padded_conv2d])
@pytest.mark.parametrize(("by_x", "by_weight"), [(0, None), (None, 0), (3, 1)])
def test_vmap_over_nothing(
    operation: Callable[..., Tensor], by_x: int | None, by_weight: int | None
) -> None:
    x, weight = torch.ones(2, 4, 3, 5), torch.ones(4, 2, 2, 2)
    xs = x if by_x is None else torch.stack([x], by_x).narrow(by_x, 0, 0)
    weights = weight if by_weight is None else weight.unsqueeze(by_weight).narrow(by_weight, 0, 0)

    def total(x: Tensor, weight: Tensor) -> Tensor:
        return operation(x, weight).square().sum()

    assert torch.vmap(operation, in_dims=(by_x, by_weight))(xs, weights).shape == (0, *x.shape)
    slopes = torch.vmap(torch.func.grad(total, argnums=(0, 1)), in_dims=(by_x, by_weight))
    by_image, by_kernel = slopes(xs, weights)
    assert (by_image.shape, by_kernel.shape) == ((0, *x.shape), (0, *weight.shape))


@pytest.mark.parametrize("operation", [inverse_conv2d, padded_conv2d])
def test_jacobians_of_torch_func(operation: Callable[..., Tensor]) -> None:
    x, weight, _ = (t.detach() for t in inputs(2, 1, (3, 2), (2, 2)))
    by_reverse = torch.func.jacrev(operation)(x, weight)
    by_forward = torch.func.jacfwd(operation)(x, weight)
    torch.testing.assert_close(by_reverse, by_forward)

    def along(weight: Tensor) -> Tensor:
        return operation(x * weight.sum(), weight)

    second = torch.func.jacrev(torch.func.jacrev(along))(weight)
    modes: tuple[Callable[..., Any], ...] = torch.func.jacrev, torch.func.jacfwd
    for outer, inner in product(modes, repeat=2):
        torch.testing.assert_close(outer(inner(along))(weight), second)
    assert float(second.abs().max()) > 1e-3
