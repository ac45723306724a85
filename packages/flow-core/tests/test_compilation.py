"""Compiled maps against eager ones. Needs a C++ compiler, and no run-time type checks."""

import copy
import pickle

import pytest
import torch
from flow_core import Chain, DenseNet, Monotone, Residual, compile_maps, update_lipschitz
from flow_core.layers import InverseConv2d
from torch import Tensor
from torch.autograd import grad

pytestmark = pytest.mark.compile

BATCH = 6


def flows(block: type[Monotone] | type[Residual], activation: str) -> tuple[Chain, Chain]:
    """The same flow, eager and compiled."""
    torch.manual_seed(0)
    nets = [
        DenseNet(2, growth=4, depth=1, activation=activation, context_features=3) for _ in range(2)
    ]
    eager = Chain([block(net) for net in nets]).double()
    for p in eager.parameters():  # leave the initial point, where conditioners are zero
        torch.nn.init.normal_(p, std=0.4)
    update_lipschitz(eager)
    fast = copy.deepcopy(eager)
    compile_maps(fast, [BATCH])
    return eager, fast


def point(batch: int = BATCH) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, 2, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(batch, 3, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("block", "activation"), [(Monotone, "cpila"), (Residual, "clipswish")])
def test_numbers_and_gradients_equal_eager_ones(
    block: type[Monotone] | type[Residual], activation: str
) -> None:
    eager, fast = flows(block, activation)
    x, context = point()
    found: list[list[Tensor]] = []
    for flow in (eager, fast):
        y, log_det = flow(x, context=context)
        inputs = [x, context, *(p for p in flow.parameters())]
        loss = (y**3).sum() + (log_det * torch.arange(BATCH)).sum()
        found.append([y, log_det, *grad(loss, inputs, materialize_grads=True)])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


def test_the_inverse_undoes_it() -> None:
    _, fast = flows(Monotone, "cpila")
    x, context = point()
    y, log_det = fast(x, context=context)
    again, other = fast.inverse_and_log_det(y, context=context)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(other, -log_det, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("block", "activation"), [(Monotone, "cpila"), (Residual, "clipswish")])
def test_second_derivatives_equal_eager_ones(
    block: type[Monotone] | type[Residual], activation: str
) -> None:
    eager, fast = flows(block, activation)
    x, context = point()
    found: list[tuple[Tensor, ...]] = []
    for flow in (eager, fast):
        y, log_det = flow(x, context=context)
        (first,) = grad((y**2).sum() + log_det.sum(), x, create_graph=True)
        found.append(grad(first.square().sum(), list(flow.parameters()), materialize_grads=True))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_other_batch_sizes_run_eager() -> None:
    eager, fast = flows(Monotone, "cpila")
    x, context = point(3)
    torch.testing.assert_close(fast(x, context=context), eager(x, context=context))


def test_one_compilation_serves_all_equal_nets() -> None:
    _, fast = flows(Residual, "clipswish")
    x, context = point()
    with torch.no_grad():
        fast[0](x, context=context)
        with torch.compiler.set_stance("fail_on_recompile"):
            fast[1](x, context=context)


def test_a_compiled_model_can_be_pickled_and_copied() -> None:
    _, fast = flows(Monotone, "cpila")
    x, context = point()
    y = fast.transform(x, context=context)
    for other in (pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast)):
        torch.testing.assert_close(other.transform(x, context=context), y, rtol=0, atol=0)


def test_half_precision_is_widened_in_one_graph() -> None:
    layer, x = InverseConv2d(2), torch.randn(3, 2, 4, 4).bfloat16()
    compiled = torch.compile(layer.transform_and_log_det, fullgraph=True, backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = compiled(x)
    assert (z.dtype, log_det.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(z, layer.transform(x.float()))
