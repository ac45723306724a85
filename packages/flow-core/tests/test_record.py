"""What blocks post while they compute, and in their backward passes."""

import pytest
import torch
from flow_core.blocks import Monotone
from flow_core.combinators import Chain
from flow_core.lipschitz import update_lipschitz
from flow_core.maps import DenseNet
from flow_core.record import record
from flow_core.settings import Solve
from flow_solvers import Gmres, SolverError
from torch import Tensor

WEAK = Gmres(restart=1, budget=3)


def chain(solve: Solve) -> Chain:
    torch.manual_seed(0)
    layers = [Monotone(DenseNet(20, growth=8, depth=1), s) for s in (Solve(), solve)]
    for parameter in layers[1].parameters():
        torch.nn.init.normal_(parameter)
    model = Chain(layers)
    update_lipschitz(model)
    return model


def loss(model: Chain) -> Tensor:
    return model.transform(torch.randn(4, 20)).square().sum()


def test_failed_derivatives_of_blocks_that_return_are_counted() -> None:
    model = chain(Solve(adjoint=WEAK, on_failure="return"))
    with record(model) as report:
        value = loss(model)
    torch.autograd.backward(value)
    good, bad = report.summary().values()
    assert (good.derivative_failures, bad.derivative_failures) == (0, 4)
    with pytest.warns(RuntimeWarning, match="derivative of a fixed point: 4 of 4"):
        torch.autograd.backward(loss(model))


def test_failed_derivatives_are_raised_unless_they_are_deferred() -> None:
    model = chain(Solve(adjoint=WEAK))
    with record(model):
        value = loss(model)
    with pytest.raises(SolverError, match="derivative"):
        torch.autograd.backward(value)
    with record(model, defer=True) as report:
        value = loss(model)
    torch.autograd.backward(value)
    with pytest.raises(SolverError, match="4 of 4") as caught:
        report.raise_deferred()
    assert caught.value.__notes__ == ["in layer layers.1"]


def test_nothing_is_raised_where_nothing_failed() -> None:
    model = chain(Solve())
    with record(model, defer=True) as report:
        value = loss(model)
    torch.autograd.backward(value)
    report.raise_deferred()
    assert [block.derivative_failures for block in report.summary().values()] == [0, 0]
