"""The Triton kernel: interpreted on the CPU in a process of its own, or on a GPU.

TRITON_INTERPRET=1 pytest -m triton
"""

import importlib
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from flow_kernels import Order, inverse_conv2d, launching, padded_conv2d
from flow_kernels.inverse_conv import gpu
from flow_kernels.inverse_conv.orders import codes
from torch import Tensor
from torch.autograd import grad
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = [
    pytest.mark.triton,
    # The exact values come from float64, which the kernel leaves to the other path.
    pytest.mark.filterwarnings("ignore:inverse_conv2d. the Triton kernel is not used"),
]


def triton_kernel() -> ModuleType:
    """Imported where it is used: Triton looks at TRITON_INTERPRET when it is."""
    return importlib.import_module("flow_kernels.inverse_conv.triton_kernel")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as torch has it
    """Names of the operations that are no views, and rows of the matrices that are multiplied."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as torch has it
        self.names: list[str] = []
        self.rows: list[int] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if not func.is_view:
            self.names.append(func.name())
        if func is torch.ops.aten.bmm.default:
            self.rows.append(args[0].shape[1])
        return func(*args, **kwargs or {})


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ORDERS: tuple[Order, ...] = ("TL", "TR", "BL", "BR")


def problem(
    channels: int, size: tuple[int, int], kernel: tuple[int, int], groups: int = 1
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    inputs = channels // groups
    weight = torch.randn(channels, inputs, *kernel, generator=g)
    x = torch.randn(2, channels, *size, generator=g)
    return x.to(DEVICE), (0.5 * weight / math.sqrt(inputs * math.prod(kernel))).to(DEVICE)


def test_it_is_the_kernel_that_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = problem(3, (4, 5), (2, 2))
    calls: list[int] = []
    plain = gpu.solve

    def counted(*args: object, **kwargs: object) -> Tensor:
        calls.append(1)
        return plain(*args, **kwargs)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(gpu, "solve", counted)
    inverse_conv2d(x, weight)
    assert calls == [1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("channels", "size", "kernel"),
    [
        (1, (1, 1), (3, 3)),
        (3, (5, 4), (3, 3)),
        (5, (4, 7), (2, 3)),
        (16, (3, 3), (2, 2)),
        (17, (2, 5), (3, 1)),
        (2, (17, 3), (3, 2)),
        (2, (2, 3), (4, 5)),
    ],
)
def test_values_are_those_of_the_other_path(
    order: Order, channels: int, size: tuple[int, int], kernel: tuple[int, int]
) -> None:
    x, weight = problem(channels, size, kernel)
    z = inverse_conv2d(x, weight, orders=order)
    exact = inverse_conv2d(x.double(), weight.double(), orders=order)
    torch.testing.assert_close(z.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(padded_conv2d(z, weight, orders=order), x, rtol=1e-5, atol=1e-5)


def test_images_higher_than_a_tile_are_done_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_ROWS", 16)
    x, weight = problem(2, (35, 3), (3, 3))
    exact = inverse_conv2d(x.double(), weight.double())
    torch.testing.assert_close(inverse_conv2d(x, weight).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(DEVICE != "cpu", reason="counts what is interpreted")
def test_no_step_is_taken_that_solves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are diagonals, and not as many as the rows of a tile let expect."""
    builder = importlib.import_module("triton.runtime.interpreter").interpreter_builder
    steps: list[int] = []
    monkeypatch.setattr(builder, "create_barrier", lambda: steps.append(1))
    monkeypatch.setattr(gpu, "_ROWS", 16)
    for height, diagonals in ((3, 7), (18, 20 + 6)):
        steps.clear()
        x, weight = problem(1, (height, 5), (2, 2))
        inverse_conv2d(x[:1], weight)
        assert len(steps) == diagonals


def test_groups_are_one_launch() -> None:
    x, weight = problem(8, (5, 4), (3, 2), groups=4)
    z = inverse_conv2d(x, weight, orders=ORDERS)
    exact = inverse_conv2d(x.double(), weight.double(), orders=ORDERS)
    torch.testing.assert_close(z.double(), exact, rtol=1e-5, atol=1e-5)


def test_more_groups_are_no_more_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the images are multiplied as a whole, not pixel by pixel."""

    def stub(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(triton_kernel(), "launch", stub)
    names: list[list[str]] = []
    for groups in (2, 4, 8):
        x, weight = problem(16, (5, 4), (2, 2), groups)
        inverse_conv2d(x, weight, orders=(ORDERS * 2)[:groups])  # what is made once is there now
        with Operations() as found:
            inverse_conv2d(x, weight, orders=(ORDERS * 2)[:groups])
        names.append(found.names)
        assert found.rows[-1] == 20
    assert names[0] == names[1] == names[2]


def test_it_is_launched_on_the_device_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton itself takes the current device, whose memory may be another."""
    chosen: list[torch.device] = []
    launched: list[torch.device] = []

    @contextmanager
    def device_of(x: Tensor) -> Generator[None]:
        chosen.append(x.device)
        yield
        chosen.pop()

    class Kernel:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *_, **__: launched.extend(chosen)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(triton_kernel(), "_solve", Kernel())
    x, weight = problem(2, (3, 3), (2, 2))
    inverse_conv2d(x, weight)
    assert launched == [x.device]


def test_nothing_is_copied_from_the_host_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph could not capture it."""
    x, weight = problem(4, (3, 4), (2, 2), groups=2)
    z = inverse_conv2d(x, weight, orders=("TL", "BR"))

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("a tensor was made from numbers of the host")

    for name in ("tensor", "full", "cartesian_prod"):
        monkeypatch.setattr(torch, name, refuse)
    again = inverse_conv2d(x, weight, orders=("TL", "BR"))
    torch.testing.assert_close(again, z, rtol=0, atol=0)


def test_nothing_is_read_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.empty_like

    def poisoned(like: Tensor) -> Tensor:
        return plain(like).fill_(float("nan"))

    monkeypatch.setattr(torch, "empty_like", poisoned)
    for order in ORDERS:
        x, weight = problem(5, (6, 3), (3, 3))
        assert bool(inverse_conv2d(x, weight, orders=order).isfinite().all())


def test_no_images_are_solved_and_differentiated() -> None:
    x, weight = problem(4, (3, 5), (2, 2), groups=2)
    leaves = x[:0].requires_grad_(), weight.requires_grad_()
    z = inverse_conv2d(*leaves, orders=("TL", "BR"))
    by_x, by_weight = grad(z.sum(), leaves)
    assert z.shape == by_x.shape == (0, 4, 3, 5)
    assert not bool(by_weight.any())


def test_gradients_are_those_of_the_other_path() -> None:
    x, weight = problem(3, (4, 3), (2, 2))
    along = torch.randn_like(x)
    found: list[tuple[Tensor, ...]] = []
    for dtype in (torch.float64, torch.float32):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight)]
        z = inverse_conv2d(leaves[0], leaves[1], orders="TR")
        found.append(grad(z, leaves, along.to(dtype)))
    for exact, got in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-5)


def test_what_it_does_not_serve_takes_the_other_path_and_says_so() -> None:
    launching._say_once.cache_clear()  # pyright: ignore[reportPrivateUsage] # it speaks once a process
    x, weight = problem(65, (2, 2), (2, 2))
    with pytest.warns(UserWarning, match="at most 64 channels a group, and these are 65"):
        z = inverse_conv2d(x, weight)
    torch.testing.assert_close(padded_conv2d(z, weight), x, rtol=1e-5, atol=1e-5)
    with pytest.warns(UserWarning, match="float64"):
        inverse_conv2d(x.double(), weight.double())
    assert codes("BR", 2) == [3, 3]
