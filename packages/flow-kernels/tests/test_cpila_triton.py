"""The Triton kernels of CPila: interpreted on the CPU in a process of its own, or on a GPU.

TRITON_INTERPRET=1 pytest -m triton
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from flow_kernels import cpila, cpila_curvature, cpila_slope, cpila_with_slope, launching
from flow_kernels.cpila import gpu, reference
from torch import Tensor
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck
from torch.func import jacfwd, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

pytestmark = [
    pytest.mark.triton,
    # Raised by torch itself when forward mode is used for the first time in a process.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPERATIONS: list[Callable[..., Tensor]] = [cpila, cpila_slope, cpila_curvature]

# Of the largest expected number. The interpreter cuts bfloat16 off instead of rounding it.
TOLERANCE = {
    torch.float32: 4e-6,
    torch.float64: 4e-15,
    torch.float16: 2**-10,
    torch.bfloat16: 2**-7,
}
# One element; odd sizes; whole blocks, and one more than that; columns that are a power of two.
SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((1,), 0),
    ((3, 7), 1),
    ((5, 3, 7), 0),
    ((2, 3, 4, 5), 1),
    ((1025,), 0),
    ((2, 1024), 1),
    ((31, 34), -1),
    ((3, 8, 64), -2),
    ((700, 2), -1),
]


@pytest.fixture
def kernels() -> ModuleType:
    return importlib.import_module("flow_kernels.cpila.triton_kernel")


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def doubled(shape: tuple[int, ...], dim: int) -> list[int]:
    return [n * 2 if d == dim % len(shape) else n for d, n in enumerate(shape)]


def assert_near(got: Tensor, exact: Tensor) -> None:
    largest = float(exact.abs().max()) if exact.numel() else 0.0
    torch.testing.assert_close(
        got.double(), exact, rtol=0, atol=TOLERANCE[got.dtype] * max(1.0, largest)
    )


@pytest.fixture
def launches(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels in the order of their launches."""
    names: list[str] = []
    plain = kernels._launch

    def counted(kernel: Callable[..., None], *args: object, **kwargs: object) -> None:
        names.append(kernel.__name__)
        plain(kernel, *args, **kwargs)

    monkeypatch.setattr(kernels, "_launch", counted)
    return names


def test_every_pass_is_one_launch(launches: list[str]) -> None:
    x = sample(3, 5).requires_grad_()
    y = cpila(x)
    assert launches == ["_push"]
    grad(y, x, y)
    assert launches == ["_push", "_pull"]
    cpila_with_slope(x.detach())
    assert launches == ["_push", "_pull", "_push"]


def test_both_gradients_of_a_gradient_are_one_launch(launches: list[str]) -> None:
    x, g = sample(3, 5).requires_grad_(), sample(3, 10, seed=1).requires_grad_()
    (first,) = grad(cpila(x), x, g, create_graph=True)
    launches.clear()
    grad(first, (x, g), sample(3, 5, seed=2))
    assert launches == ["_pull_backward"]


def test_a_tangent_costs_one_launch_more(launches: list[str]) -> None:
    jvp(cpila, (sample(3, 5),), (sample(3, 5, seed=1),))
    assert launches == ["_push", "_push"]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_values_and_pullbacks_are_those_of_the_reference(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype
) -> None:
    x = 2 * sample(*shape, dtype=dtype)
    cotangents = tuple(sample(*doubled(shape, dim), seed=k, dtype=dtype) for k in (1, 2))
    t = sample(*shape, seed=3, dtype=dtype)
    exact_x, exact_t, *exact = (v.double() for v in (x, t, *cotangents))
    values = reference.derivatives(exact_x, dim, 0, 2)
    for got, value in zip(gpu.derivatives(x, dim, 0, 2), values, strict=True):
        assert got.dtype == dtype
        assert_near(got, value)
    assert_near(gpu.derivatives(x, dim, 2, 1)[0], reference.derivatives(exact_x, dim, 2, 1)[0])
    for count in (1, 2):
        pulled = gpu.pullback(x, dim, 0, cotangents[:count])
        assert_near(pulled, reference.pullback(exact_x, dim, 0, tuple(exact[:count])))
        slopes = reference.derivatives(exact_x, dim, 1, count)
        pushed = [torch.cat((exact_t, exact_t), dim) * slope for slope in slopes]
        along_x, along = gpu.pullback_backward(x, t, dim, 0, cotangents[:count])
        assert_near(along_x, exact_t * reference.pullback(exact_x, dim, 1, tuple(exact[:count])))
        for push in (along, gpu.push(x, t, dim, 1, count)):
            for got, expected in zip(push, pushed, strict=True):
                assert_near(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_orders(dtype: torch.dtype) -> None:
    x = torch.linspace(-4, 4, 501, dtype=dtype, device=DEVICE)[:, None]
    for order in range(gpu.HIGHEST_ORDER + 1):
        (got,) = gpu.derivatives(x, 1, order, 1)
        # From the fourth on, the derivatives jump where an argument is 0.
        assert_near(got, reference.derivatives(x.double(), 1, order, 1)[0])
    assert not gpu.serves(gpu.HIGHEST_ORDER + 1, x)


@pytest.mark.parametrize("size", [1, 5, 1023, 1024, 1025])
def test_nothing_is_written_beyond_the_end_nor_read(kernels: ModuleType, size: int) -> None:
    guard = 2048
    x, g, t, out, along = (
        torch.full((n + 2 * guard,), math.nan, device=DEVICE)
        for n in (size, 2 * size, size, 2 * size, size)
    )
    inner_x, inner_g, inner_t, inner_out, inner_along = (
        v[guard:-guard] for v in (x, g, t, out, along)
    )
    for k, tensor in enumerate((inner_x, inner_g, inner_t)):
        tensor.copy_(sample(len(tensor), seed=k))
    outs, gs = (inner_out,), (inner_g,)
    kernels.launch_push(inner_x, inner_t, outs, columns=size, order=0)
    kernels.launch_pull(inner_x, gs, inner_along, columns=size, order=1)
    for tensor in (out, along):
        assert int(tensor.isnan().sum()) == 2 * guard
        tensor[guard:-guard].fill_(math.nan)
    kernels.launch_pull_backward(inner_x, inner_t, gs, inner_along, outs, columns=size, order=1)
    for tensor in (x, g, t, out, along):
        assert int(tensor.isnan().sum()) == 2 * guard


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_extreme_arguments(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    sizes = [0.0, limits.smallest_normal, 1e-3, 0.2, 20.0, 33.0, 200.0, 6e4, limits.max]
    x = torch.tensor([*sizes, *(-s for s in sizes)], dtype=dtype, device=DEVICE)[:, None]
    one = torch.ones_like(torch.cat((x, x), 1))
    for order in range(4):
        (got,) = gpu.derivatives(x, 1, order, 1)
        (expected,) = reference.derivatives(x.double(), 1, order, 1)
        near = TOLERANCE[dtype]
        torch.testing.assert_close(got, expected.to(dtype), rtol=near, atol=100 * near)
        assert bool(gpu.pullback(x, 1, order, (one,)).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinity_and_nan_are_as_elsewhere(dtype: torch.dtype) -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.5], dtype=dtype, device=DEVICE)[:, None]
    g = torch.ones_like(torch.cat((x, x), 1))
    for order in range(4):
        (got,) = gpu.derivatives(x, 1, order, 1)
        (expected,) = reference.derivatives(x, 1, order, 1)
        torch.testing.assert_close(got, expected, equal_nan=True)
        pulled = gpu.pullback(x, 1, order, (g,))
        torch.testing.assert_close(pulled, reference.pullback(x, 1, order, (g,)), equal_nan=True)


def test_slopes_where_an_argument_is_zero() -> None:
    x = torch.tensor([[0.2], [-0.2]], dtype=torch.float64, device=DEVICE)
    for order in range(gpu.HIGHEST_ORDER + 1):
        (expected,) = reference.derivatives(x, 1, order, 1)
        torch.testing.assert_close(gpu.derivatives(x, 1, order, 1)[0], expected)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (2, 0, 4)])
def test_empty(shape: tuple[int, ...], launches: list[str]) -> None:
    x = torch.zeros(shape, device=DEVICE, requires_grad=True)
    for operation in OPERATIONS:
        y = operation(x)
        assert y.shape == (*shape[:-1], 2 * shape[-1])
        (first,) = grad(y.sum(), x, create_graph=True)
        assert grad(first.sum(), x)[0].shape == shape
    assert launches


def test_inputs_with_gaps_and_gradients_in_another_order() -> None:
    base = sample(4, 6, 5, 3, dtype=torch.float64)
    views = [base.transpose(1, 3), base[:, ::2], base[..., 1:], base.chunk(2, 1)[1]]
    views += [base.to(memory_format=torch.channels_last), base[:1].expand(3, -1, -1, -1)]
    views += [torch.complex(base, base).conj().imag, base.permute(3, 0, 2, 1)[:, :1]]
    for view in views:
        for dim in (1, -1):
            x = view.detach().requires_grad_()
            y = cpila(x, dim)
            assert_near(y, reference.derivatives(x.detach(), dim, 0, 1)[0])
            g = sample(*reversed(y.shape), seed=1, dtype=torch.float64).permute(3, 2, 1, 0)
            (first,) = grad(y, x, g, create_graph=True)
            assert_near(first, reference.pullback(x.detach(), dim, 0, (g,)))
            t = sample(*x.shape, seed=2, dtype=torch.float64)
            assert_near(grad(first, x, t)[0], t * reference.pullback(x.detach(), dim, 1, (g,)))


def test_channels_last_stays_and_costs_no_copy(launches: list[str]) -> None:
    x = sample(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = cpila(x, 1)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (pulled,) = grad(y, x, torch.ones_like(y))
    assert pulled.is_contiguous(memory_format=torch.channels_last)
    assert launches == ["_push", "_pull"]
    arranged = gpu._layout(x, 1).arranged(x)  # pyright: ignore[reportPrivateUsage] # no copy
    assert arranged.data_ptr() == x.data_ptr()


def test_places_of_64_bits(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    x, g = sample(37, 33), sample(37, 66, seed=1)
    expected = gpu.derivatives(x, 1, 0, 2), gpu.pullback(x, 1, 0, (g,))
    monkeypatch.setattr(kernels, "_LARGEST", 0)
    got = gpu.derivatives(x, 1, 0, 2), gpu.pullback(x, 1, 0, (g,))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.skipif(DEVICE == "cpu", reason="takes 11 GB, and minutes where it is interpreted")
@pytest.mark.parametrize("columns", [1, 4, 2**30 + 4])
def test_more_numbers_than_31_bits_count(columns: int) -> None:
    x = torch.zeros(2**30 + 4, dtype=torch.bfloat16, device=DEVICE)
    x[-4:] = torch.arange(1, 5)
    rows = x.view(-1, columns)
    value = cpila(rows)
    small = x[-4:].view(-1, min(columns, 4))
    last = value.view(-1, 2, columns)[-len(small) :, :, -4:]
    torch.testing.assert_close(last.flatten(1), cpila(small))
    pulled = gpu.pullback(rows, -1, 0, (value,)).flatten()[-4:]
    torch.testing.assert_close(pulled, gpu.pullback(small, -1, 0, (cpila(small),)).flatten())


def test_derivatives_of_derivatives() -> None:
    values = [-0.8, -0.05, 0.3]
    x = torch.tensor(values, dtype=torch.float64, device=DEVICE).requires_grad_()
    assert gradgradcheck(cpila_with_slope, x, check_fwd_over_rev=True)

    def third(x: Tensor) -> Tensor:
        (first,) = grad(cpila(x).square().sum(), x, create_graph=True)
        (second,) = grad(first.sin().sum(), x, create_graph=True)
        return second

    assert gradcheck(third, x)


def test_forward_mode_and_transforms() -> None:
    x, t = sample(4, 3, dtype=torch.float64), sample(4, 3, seed=1, dtype=torch.float64)
    expected = cpila_slope(x) * torch.cat((t, t), -1)
    with forward_ad.dual_level():
        dual: Tensor = forward_ad.make_dual(x, t)  # type: ignore[no-untyped-call]  # untyped in torch
        tangent = forward_ad.unpack_dual(cpila(dual)).tangent  # type: ignore[no-untyped-call]  # likewise
    torch.testing.assert_close(tangent, expected)
    rows = torch.stack([jacfwd(cpila)(row) for row in x])
    torch.testing.assert_close(vmap(jacfwd(cpila))(x), rows)

    def push(t: Tensor) -> Tensor:
        tangent: Tensor = jvp(cpila, (x[0],), (t,))[1]
        return tangent

    pushed: Tensor = vmap(push)(t)
    torch.testing.assert_close(pushed, t.repeat(1, 2) * cpila_slope(x[:1]))


def test_what_watches_operations_sees_them(launches: list[str]) -> None:
    x = sample(3, 4).requires_grad_()
    with FlopCounterMode(display=False):
        grad(cpila(x).sum(), x)
    assert not launches


def test_without_triton_the_definition_serves_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(name: str) -> None:
        del name

    x = sample(3, 4)
    expected = cpila(x)
    caches = (launching._missing, launching._say_once)  # pyright: ignore[reportPrivateUsage] # they speak once a process
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", nothing)
        for cache in caches:
            cache.cache_clear()
        with pytest.warns(UserWarning, match=r"cpila: the Triton kernel .* not installed"):
            torch.testing.assert_close(cpila(x), expected)
        torch.testing.assert_close(cpila(x), expected)
    launching._missing.cache_clear()  # pyright: ignore[reportPrivateUsage] # as above
