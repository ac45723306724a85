"""What blocks post while they compute, and in their backward passes."""

import pytest
import torch
from flow_core.blocks import Implicit, Monotone, Residual
from flow_core.combinators import Chain
from flow_core.lipschitz import update_lipschitz
from flow_core.maps import DenseNet
from flow_core.record import record
from flow_core.settings import Settings, Solve
from flow_logdet import Exact, Krylov
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


def test_the_error_of_log_determinants_is_honest_with_two_probes() -> None:
    torch.manual_seed(0)
    block, samples = Residual(DenseNet(8, growth=8, depth=1)), 4000
    torch.nn.init.normal_(next(block.parameters()))
    update_lipschitz(block)
    x = torch.randn(1, 8).expand(samples, 8)
    with torch.no_grad(), record(block) as report:
        _, found = block(x, using=Settings(estimator=Krylov(probes=2, control_variate=False)))
        exact = block(x[:1], using=Settings(estimator=Exact()))[1]
    (figures,) = report.summary().values()
    assert figures.log_det_error is not None
    # The relative standard deviation of the ratio is about (2/4000 + 2/4000)^½ = .03.
    assert abs(figures.log_det_error**2 / float(found.var()) - 1) < 0.15
    share = float(((found - exact).abs() <= 2 * figures.log_det_error).double().mean())
    assert abs(share - 0.954) < 0.02


def test_what_is_unknown_of_log_determinants_is_none() -> None:
    block, x = Implicit(DenseNet(8, growth=8), DenseNet(8, growth=8)), torch.randn(3, 8)
    for estimator, batch, known in (
        (Exact(), 3, (False, False)),
        (Krylov(), 3, (False, True)),
        (Krylov(probes=2), 3, (True, True)),
        (Krylov(probes=2), 0, (False, False)),
    ):
        with torch.no_grad(), record() as report:
            block(x[:batch], using=Settings(estimator=estimator))
        (figures,) = report.summary().values()
        told = (figures.log_det_error is not None, figures.log_det_bias is not None)
        assert told == known
