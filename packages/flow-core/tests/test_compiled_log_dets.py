"""Gradients of log-determinants in code that Inductor made. Needs a C++ compiler."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from _pytest.mark import ParameterSet
from flow_core import (
    Bijection,
    Chain,
    DenseNet,
    Implicit,
    LipschitzNet,
    Monotone,
    Residual,
    Settings,
    Solve,
    inverse_residual,
    update_lipschitz,
)
from flow_core.layers import Conv1x1, ExactConv2d
from flow_logdet import Exact
from flow_solvers import Picard
from torch import Tensor
from torch.autograd import grad

pytestmark = [
    pytest.mark.compile,
    # Of Dynamo and Inductor, about themselves.
    pytest.mark.filterwarnings("ignore"),
]

BATCH = 5
# One small loop: the code of solvers is not what is tested here.
USING = Settings(estimator=Exact(), solve=Solve(solver=Picard()))
Net: TypeAlias = Callable[[], LipschitzNet]
Block: TypeAlias = Callable[[Net], Bijection]


def residual(net: Net) -> Bijection:
    return Residual(net())


def resolvent(net: Net) -> Bijection:
    return inverse_residual(net())


def implicit(net: Net) -> Bijection:
    return Implicit(net(), net())


def monotone(net: Net) -> Bijection:
    return Monotone(net())


BLOCKS = [residual, resolvent, implicit, monotone]


def vector_net() -> LipschitzNet:
    return DenseNet(6, growth=2, depth=1)


def image_net() -> LipschitzNet:
    return DenseNet(2, growth=2, depth=1, map_size=(2, 3))


def log_dets_and_gradients(layer: Bijection, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Eager, and by Inductor; the log-determinants of samples weigh differently."""
    torch.compiler.reset()
    found: list[list[Tensor]] = []
    for call in (layer, torch.compile(layer)):
        log_det = call(x, using=USING)[1]
        loss = (log_det * torch.arange(1, len(x) + 1)).sum()
        inputs = [t for t in (x, *layer.parameters()) if t.requires_grad]
        found.append([log_det, *grad(loss, inputs, materialize_grads=True)])
    return found[0], found[1]


def assert_compiled_is_eager(layer: Bijection, x: Tensor) -> None:
    eager, compiled = log_dets_and_gradients(layer.train(), x.requires_grad_())
    assert max(float(g.abs().max()) for g in eager[1:]) > 1e-2
    for expected, got in zip(eager, compiled, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def away_from_the_start(layer: Bijection) -> Bijection:
    torch.manual_seed(0)
    for p in layer.double().parameters():
        torch.nn.init.normal_(p, std=0.4)
    update_lipschitz(layer)
    return layer


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_of_vectors(block: Block) -> None:
    layer = away_from_the_start(block(vector_net))
    assert_compiled_is_eager(layer, torch.randn(BATCH, 6, dtype=torch.float64))


def slow(block: Block) -> ParameterSet:
    return pytest.param(block, marks=pytest.mark.slow)


@pytest.mark.parametrize("block", [residual, monotone, slow(resolvent), slow(implicit)])
def test_blocks_of_images(block: Block) -> None:
    layer = away_from_the_start(block(image_net))
    assert_compiled_is_eager(layer, torch.randn(BATCH, 2, 2, 3, dtype=torch.float64))


def test_matrices() -> None:
    torch.manual_seed(0)
    layer = Chain([Conv1x1(2), ExactConv2d(2, 3, (2, 3)), ExactConv2d(2, 1, (2, 3))]).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    assert_compiled_is_eager(layer, torch.randn(BATCH, 2, 2, 3, dtype=torch.float64))
