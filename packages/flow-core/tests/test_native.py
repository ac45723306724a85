"""What is compiled to C against torch. Needs a C compiler."""

from collections.abc import Callable, Sequence

import pytest
import torch
from flow_core.maps.native import UnsupportedError, compile_run
from flow_core.maps.native.pointwise import POINTWISE
from torch import Tensor
from torch.nn import functional as F

pytestmark = pytest.mark.compile

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def agree(function: Run, inputs: Sequence[Tensor]) -> None:
    """Twice, because memory is used again."""
    program = compile_run(function, inputs)
    for scale in (1, 2):
        given = [t * scale if t.is_floating_point() else t for t in inputs]
        for found, expected in zip(program(given), function(given), strict=True):
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, equal_nan=True)


def numbers(dtype: torch.dtype) -> Tensor:
    special = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, 25.0, -25.0, 1e-30, 300.0]
    return torch.cat([torch.tensor(special), torch.randn(27)]).to(dtype)


UNARY: list[Callable[[Tensor], Tensor]] = [
    torch.abs,
    torch.cos,
    torch.exp,
    torch.expm1,
    torch.isfinite,
    torch.isinf,
    torch.isnan,
    torch.log,
    torch.log1p,
    torch.neg,
    torch.reciprocal,
    torch.relu,
    torch.sigmoid,
    torch.sin,
    torch.sqrt,
    torch.tanh,
    F.softplus,
    lambda x: x.clamp(-1, 1),
    lambda x: x.clamp_min(0.5),
    lambda x: x.clamp_max(0.5),
    lambda x: 2.5 - x,
    lambda x: (x > 0) & ~(x > 1) | torch.ne(x, x),
    lambda x: torch.where(x > 0, x, 2 * x),
    lambda x: torch.where(x.isnan(), 0, x),
    lambda x: (x > 0).to(x.dtype),
    lambda x: (x > 0).sum(),
    lambda x: x.new_full((3, 3), float("-inf")) + torch.eye(3).to(x.dtype),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", UNARY)
def test_pointwise_operations_equal_those_of_torch(
    function: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    agree(lambda t: [function(t[0])], [numbers(dtype)])


WHOLE: list[Callable[[Tensor], Tensor]] = [
    lambda n: n == 0.5,
    lambda n: n > -0.5,
    lambda n: n / 2,
    lambda n: (n > 0) + (n < 2),
    lambda n: (n > 0) == 1,
    lambda n: (n > 0) * 0.5,
    lambda n: n.abs() - n.clamp(0, 1),
    lambda n: n.to(torch.float64).exp(),
    lambda n: torch.where(n > 0, n, 0).sum(),
    lambda n: (0.5 * n).to(torch.int64),
    lambda n: n.to(torch.bool),
]


@pytest.mark.parametrize("function", WHOLE)
def test_integers_and_truth_values(function: Callable[[Tensor], Tensor]) -> None:
    agree(lambda t: [function(t[0])], [torch.arange(-3, 4)])


BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add,
    torch.div,
    torch.hypot,
    torch.mul,
    torch.le,
    torch.eq,
    lambda a, b: torch.sub(a, b, alpha=3),
    lambda a, b: torch.addcmul(a, a, b, value=-2),
    lambda a, b: torch.cat([a, b, a - b], 1),
    lambda a, b: torch.stack([a, b.expand_as(a)], -1),
    lambda a, b: torch.stack(torch.split(a * b, 2, 1)[::-1][1:]),
]


@pytest.mark.parametrize("function", BINARY)
def test_operands_are_broadcast(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    agree(lambda t: [function(*t)], [torch.randn(6, 5), torch.randn(6, 1)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 2, 53), (7, 3, 16), (37, 40, 2)])
@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)])
def test_products_of_views(
    sizes: tuple[int, int, int], turned: tuple[bool, bool], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    rows, inner, columns = sizes
    left = torch.randn((inner, rows) if turned[0] else (rows, inner), dtype=dtype)
    right = torch.randn((columns, inner) if turned[1] else (inner, columns), dtype=dtype)

    def function(t: Sequence[Tensor]) -> Sequence[Tensor]:
        a, b = (x.T if turn else x for x, turn in zip(t, turned, strict=False))
        return a @ b, torch.addmm(t[2], a, b), (a @ b).T

    agree(function, [left, right, torch.randn(columns, dtype=dtype)])


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_sums(dims: tuple[int, ...], keepdim: bool) -> None:
    torch.manual_seed(0)

    def function(t: Sequence[Tensor]) -> Sequence[Tensor]:
        return [x.sum(dims, keepdim) for x in (t[0], t[0].permute(2, 0, 1))]

    agree(function, [torch.randn(5, 3, 40)])


def test_parts_of_memory_are_written_and_read_in_order() -> None:
    def function(t: Sequence[Tensor]) -> Sequence[Tensor]:
        room = torch.empty(3, 4)
        room[0], room[1:] = t[0], 2 * t[0]
        room[1:] += room[:-1].clone()
        room[:, ::2].neg_()
        room.relu_()
        shifted = room.flatten()[1:-3].view(2, 4)
        return room, shifted, shifted.T.contiguous() + t[0][:, None]

    agree(function, [torch.randn(4)])


def test_gradients_by_autograd() -> None:
    def function(t: Sequence[Tensor]) -> Sequence[Tensor]:
        leaves = [x.detach().requires_grad_() for x in t]
        with torch.enable_grad():
            a, b = leaves
            h = torch.cat([a[:, 1:], F.softplus(a).unbind(1)[0][:, None]], 1)
            y = (torch.tanh(h @ b) * torch.sigmoid(h).sum(1, keepdim=True)).relu()
            loss = (y * y).sum()
        return torch.autograd.grad(loss, leaves)

    torch.manual_seed(0)
    agree(function, [torch.randn(9, 4), torch.randn(4, 3)])


def test_results_are_new_memory_whatever_the_inputs_share() -> None:
    x = torch.arange(6.0)

    def function(t: Sequence[Tensor]) -> Sequence[Tensor]:
        return t[0], t[0], t[1] + t[0], t[1].view(2, 3)

    program = compile_run(function, [x, x])
    first = program([x, x])
    second = program([x, torch.stack([x, x], 1)[:, 0]])
    assert len({t.data_ptr() for t in (x, *first, *second)}) == 9
    for found, expected in zip((*first, *second), 2 * list(function([x, x])), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


UNSUPPORTED: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.sort()[0],
    lambda x: x.add_(1),
    lambda x: x.new_zeros(1000, 1000),
    lambda x: x + torch.ones(2, 3).new_tensor([1.0, 2.0]),
    lambda x: x.to(torch.complex64),
    lambda x: ~(x > 0).to(torch.int64),
    lambda x: torch.div(x, 2, rounding_mode="floor"),
]


@pytest.mark.parametrize("function", UNSUPPORTED)
def test_what_has_no_rule_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedError):
        compile_run(lambda t: [function(t[0])], [torch.randn(2)])


def test_a_missing_or_failing_compiler_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    for compiler in ("no-such-compiler", "false"):
        monkeypatch.setenv("CC", compiler)
        with pytest.raises(UnsupportedError):
            compile_run(lambda t: [t[0] + 1], [torch.randn(2)])


CONDITIONAL: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda h, g: torch.ops.aten.threshold_backward(g, h, 0),
    lambda h, g: torch.where(h > 0, g, h),
    lambda h, g: torch.ops.aten.softplus_backward(g, h, 1, 20),
    torch.hypot,
    lambda h, g: h.clamp(-0.5, 0.5) * g,
]
SHAPES = [(3, 3), (4, 5), (6, 6), (2, 16), (16, 16), (2, 3, 8), (4, 3, 16)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("function", CONDITIONAL)
def test_conditions_choose_among_numbers_that_are_loaded(
    function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    agree(lambda t: [function(t[0], t[1])], [torch.randn(shape, dtype=dtype) for _ in range(2)])


def test_infinities_and_nan_stay_what_they_are() -> None:
    strange = torch.tensor([float("inf"), float("nan"), 1e-9, 1.0])
    agree(lambda t: [t[0] * 0, (t[0] + 1) - t[0], ((1 + t[0]) - 1) / t[0]], [strange])
    agree(lambda t: [torch.hypot(t[0], t[0]), t[0].clamp(2.0, -1.0)], [strange])


LOOKING: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * x.sum().item(),
    lambda x: x if torch.equal(x, x + 1) else -x,
    lambda x: x.sum() if bool(x.sum() > 0) else x,
]


@pytest.mark.parametrize("function", LOOKING)
def test_what_looks_at_numbers_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedError, match="whose result is no tensor"):
        compile_run(lambda t: [function(t[0])], [torch.randn(5)])


def test_code_that_gives_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POINTWISE, "exp", "2 * exp{f}({self})")
    with pytest.raises(UnsupportedError, match="gives other numbers"):
        compile_run(lambda t: [t[0].exp()], [torch.randn(5)])


def circular(t: Sequence[Tensor]) -> list[Tensor]:
    return [t[0].sin(), t[0].cos()]


@pytest.mark.parametrize("end", [3.0, 100.0, 8192.0])
def test_sines_and_cosines_are_within_two_roundings(end: float) -> None:
    angles = torch.linspace(-end, end, 40_001)
    for found, expected in zip(
        compile_run(circular, [angles])([angles]), circular([angles.double()]), strict=True
    ):
        assert (found.double() - expected).abs().max() < 2 * torch.finfo(torch.float32).eps


def test_sines_of_far_numbers_are_those_of_the_library() -> None:
    """Also where only a batch after the first, which is checked, has such numbers."""
    near, far = torch.randn(64), torch.logspace(0, 38, 64)
    program = compile_run(circular, [near])
    for found, expected in zip(program([far]), circular([far.double()]), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=1.5e-7)


def test_sines_in_place_of_far_numbers_are_taken_once() -> None:
    far = torch.logspace(0, 38, 64)
    agree(lambda t: [(t[0] + 0).sin_(), (2 * t[0]).cos_().sin_()], [far])
