"""Compiled maps against eager ones. Needs a C++ compiler, and no run-time type checks."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import NoReturn

import pytest
import torch
from flow_core import (
    Chain,
    DenseNet,
    FeedForwardNet,
    LipschitzNet,
    Monotone,
    Residual,
    Settings,
    record,
    update_lipschitz,
)
from flow_core.layers import InverseConv2d
from flow_core.lipschitz import Activation
from flow_core.maps import compilation
from flow_core.maps.native import FaultyCompilerError
from flow_logdet import Exact
from torch import Tensor
from torch.autograd import grad

pytestmark = pytest.mark.compile

BATCH = 6
EAGER, COMPILED = Settings(), Settings(compiled=frozenset([BATCH]))


def made(block: type[Monotone] | type[Residual], kind: str) -> Chain:
    """A flow away from the initial point, where conditioners are zero."""
    torch.manual_seed(0)
    chain = Chain([block(net(kind)) for _ in range(2)]).double()
    for p in chain.parameters():
        torch.nn.init.normal_(p, std=0.4)
    update_lipschitz(chain)
    return chain


def net(kind: str) -> LipschitzNet:
    if kind == "plain":
        return FeedForwardNet(2, [6, 6], activation="sin", preact=True, context_features=3)
    return DenseNet(2, growth=4, depth=1, activation=kind, context_features=3)


def point(batch: int = BATCH) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, 2, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(batch, 3, dtype=torch.float64, requires_grad=True)


kinds = pytest.mark.parametrize(
    ("block", "kind"),
    [(Monotone, "cpila"), (Residual, "clipswish"), (Monotone, "plain"), (Residual, "plain")],
)


@kinds
def test_numbers_and_gradients_equal_eager_ones(
    block: type[Monotone] | type[Residual], kind: str
) -> None:
    flow, (x, context) = made(block, kind), point()
    found: list[list[Tensor]] = []
    for using in (EAGER, COMPILED):
        y, log_det = flow(x, context=context, using=using)
        inputs = [x, context, *(p for p in flow.parameters())]
        loss = (y**3).sum() + (log_det * torch.arange(BATCH)).sum()
        found.append([y, log_det, *grad(loss, inputs, materialize_grads=True)])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["cpila", "plain", "maxmin"])
def test_the_inverse_undoes_it(kind: str) -> None:
    flow, (x, context) = made(Monotone, kind), point()
    y, log_det = flow(x, context=context, using=COMPILED)
    again, other = flow.inverse_and_log_det(y, context=context, using=COMPILED)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(other, -log_det, rtol=0, atol=1e-7)


@kinds
def test_second_derivatives_equal_eager_ones(
    block: type[Monotone] | type[Residual], kind: str
) -> None:
    flow, (x, context) = made(block, kind), point()
    found: list[tuple[Tensor, ...]] = []
    for using in (EAGER, COMPILED):
        y, log_det = flow(x, context=context, using=using)
        (first,) = grad((y**2).sum() + log_det.sum(), x, create_graph=True)
        found.append(grad(first.square().sum(), list(flow.parameters()), materialize_grads=True))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_other_batch_sizes_run_eager() -> None:
    flow, (x, context) = made(Monotone, "cpila"), point(3)
    found = flow(x, context=context, using=COMPILED)
    torch.testing.assert_close(found, flow(x, context=context))


@pytest.fixture
def no_new_code(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on nothing may be compiled."""

    def refuse(*arguments: object) -> NoReturn:
        raise AssertionError(f"compiled again: {arguments}")

    def forbid() -> None:
        monkeypatch.setattr(compilation, "compile_run", refuse)
        monkeypatch.setattr(torch, "compile", refuse)

    return forbid


@pytest.mark.parametrize("kind", ["clipswish", "maxmin"])
def test_one_compilation_serves_all_equal_nets(kind: str, no_new_code: Callable[[], None]) -> None:
    flow, (x, context) = made(Residual, kind), point()
    with torch.no_grad():
        flow[0](x, context=context, using=COMPILED)
        no_new_code()
        with torch.compiler.set_stance("fail_on_recompile"):
            flow[1](x, context=context, using=COMPILED)


def test_copies_and_pickles_share_what_is_compiled(no_new_code: Callable[[], None]) -> None:
    flow, (x, context) = made(Monotone, "cpila"), point()
    y = flow.transform(x, context=context, using=COMPILED)
    no_new_code()
    with torch.compiler.set_stance("fail_on_recompile"):
        for other in (pickle.loads(pickle.dumps(flow)), copy.deepcopy(flow)):
            again = other.transform(x, context=context, using=COMPILED)
            torch.testing.assert_close(again, y, rtol=0, atol=0)


class Scaled(Activation):
    """Depends on an attribute."""

    scale = 1.0

    def value_and_slope(
        self, a: Tensor, dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.scale * a.sin(), self.scale * a.cos()


def test_what_an_activation_keeps_besides_parameters_is_seen() -> None:
    torch.manual_seed(0)
    block = Residual(FeedForwardNet(2, [6], activation=Scaled())).double()
    (activation,) = (m for m in block.modules() if isinstance(m, Scaled))
    x, _ = point()
    with torch.no_grad():
        for scale in (0.5, 0.25):
            activation.scale = scale
            found = block.transform(x, using=COMPILED)
            torch.testing.assert_close(found, block.transform(x))


def test_common_activations_need_no_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise AssertionError("what is fast to compile became slow")

    monkeypatch.setattr(torch, "compile", refuse)
    x = torch.randn(BATCH + 1, 2, requires_grad=True)
    for block in (Residual, Monotone):
        for activation in ("cpila", "clipswish", "lipswish", "sin"):
            flow = block(DenseNet(2, growth=4, depth=1, activation=activation))
            y, log_det = flow(x, using=Settings(compiled=frozenset([BATCH + 1])))
            grad(y.sum() + log_det.sum(), [x, *flow.parameters()], allow_unused=True)


def test_values_of_larger_nets_are_compiled_where_no_graph_is_wanted() -> None:
    torch.manual_seed(0)
    block = Residual(FeedForwardNet(12, [16, 16])).double()
    x = torch.randn(BATCH, 12, dtype=torch.float64)
    with torch.no_grad():
        found = block.transform(x, using=COMPILED)
    torch.testing.assert_close(found, block.transform(x))


def test_a_chain_of_residual_blocks_is_one_graph() -> None:
    torch.manual_seed(0)
    chain, x = Chain([Residual(DenseNet(6, growth=4)) for _ in range(2)]), torch.randn(5, 6)
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(x), chain(x), strict=True):
        torch.testing.assert_close(found, expected)


def test_settings_and_open_reports_make_no_new_graph_of_equal_calls() -> None:
    torch.manual_seed(0)
    chain, x = Chain([Residual(DenseNet(6, growth=4)) for _ in range(2)]), torch.randn(5, 6)
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
    expected = compiled(x, using=Settings(estimator=Exact()))
    with torch.compiler.set_stance("fail_on_recompile"), record(chain) as report:
        for found, value in zip(compiled(x, using=Settings(Exact())), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=0, atol=0)
    assert not report.summary()


def test_half_precision_is_widened_in_one_graph() -> None:
    layer, x = InverseConv2d(2), torch.randn(3, 2, 4, 4).bfloat16()
    compiled = torch.compile(layer.transform_and_log_det, fullgraph=True, backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = compiled(x)
    assert (z.dtype, log_det.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(z, layer.transform(x.float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [5, 16])
@pytest.mark.parametrize("name", ["relu", "cpila", "clipswish", "elu", "sin", "tanh"])
def test_compiled_gradients_are_those_of_eager_code(
    name: str, batch: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    block = Monotone(FeedForwardNet(2, [8, 8], activation=name)).to(dtype)
    x = torch.randn(batch, 2, dtype=dtype)
    found: list[tuple[Tensor, ...]] = []
    for settings in (Settings(), Settings(compiled=frozenset([batch]))):
        y, log_det = block(x, using=settings)
        loss = y.pow(3).sum() + log_det.sum()
        found.append(grad(loss, list(block.parameters())))
    rtol, atol = (1e-3, 1e-4) if dtype == torch.float32 else (1e-8, 1e-9)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def test_a_faulty_compiler_is_said_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> NoReturn:
        raise FaultyCompilerError("no room")

    monkeypatch.setattr(compilation, "compile_run", broken)
    block = Residual(FeedForwardNet(2, [3], activation="tanh")).double()
    x = torch.randn(7, 2, dtype=torch.float64)
    with pytest.warns(UserWarning, match="what the C compiler could not: no room"):
        y, log_det = block(x, using=Settings(compiled=frozenset([7])))
    expected, exact = block(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(log_det, exact)
