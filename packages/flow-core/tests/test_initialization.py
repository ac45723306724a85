"""Initialization through models: once, in order, with a report."""

import math

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.combinators import Chain, Invert
from flow_core.dequantization import Dequantized, UniformDequantizer
from flow_core.distributions import Flow
from flow_core.initialization import initialize, reset_initialization
from flow_core.layers import ActNorm, Affine, LogitTransform, Reshape
from torch import nn


def model() -> Chain:
    return Chain([ActNorm(3), Affine((3,)), ActNorm(3)])


def data(seed: int = 0) -> torch.Tensor:
    return 4 * torch.randn(64, 3, generator=torch.Generator().manual_seed(seed)) + 2


def test_every_layer_sees_the_output_of_the_one_before() -> None:
    middle = Affine((3,))
    torch.nn.init.ones_(middle.log_scale)
    chain = Chain([ActNorm(3), middle, ActNorm(3)])
    report = initialize(chain, data())
    assert report.initialized == ("layers.0", "layers.2")
    assert report.kept == ()
    y = chain.transform(data())
    assert torch.allclose(y.mean(0), torch.zeros(3), atol=1e-6)
    assert torch.allclose(y.std(0), torch.ones(3), atol=1e-6)
    assert report.output_mean == pytest.approx(0.0, abs=1e-6)
    assert report.output_std == pytest.approx(1.0, abs=0.01)
    assert "initialized 2 layers" in str(report)


def test_a_second_time_is_refused_until_reset() -> None:
    chain = model()
    initialize(chain, data())
    with pytest.raises(RuntimeError, match=r"all 2 layers set; call reset_initialization"):
        initialize(chain, data(1))
    reset_initialization(chain)
    with pytest.raises(RuntimeError, match="to be initialized"):
        chain.transform(data())
    initialize(chain, data(1) + 5)
    assert torch.allclose(chain.transform(data(1) + 5).mean(0), torch.zeros(3), atol=1e-5)


def test_layers_that_are_set_are_kept_and_named() -> None:
    first = ActNorm(3)
    first.initialize(data())
    report = initialize(Chain([first, ActNorm(3)]), data())
    assert (report.initialized, report.kept) == (("layers.1",), ("layers.0",))


def test_a_model_without_such_layers_may_be_initialized_any_number_of_times() -> None:
    for _ in range(2):
        assert initialize(Affine((3,)), data()).initialized == ()


def test_inverted_layers_must_be_initialized_in_their_own_direction() -> None:
    with pytest.raises(ValueError, match="inside Invert"):
        initialize(Chain([Invert(ActNorm(3))]), data())


def test_nothing_is_differentiated() -> None:
    chain = model()
    initialize(chain, data().requires_grad_())
    assert all(p.grad is None and p.grad_fn is None for p in chain.parameters())


def test_flow_and_dequantized_initialize_their_bijection() -> None:
    flow = Flow(StandardNormal((3,)), Chain([LogitTransform(0.05), ActNorm(3)]))
    integers = torch.randint(0, 17, (200, 3), generator=torch.Generator().manual_seed(0))
    report = initialize(Dequantized(flow, UniformDequantizer(), 17), integers)
    assert report.initialized == ("flow.bijection.layers.1",)
    assert report.output_std == pytest.approx(1.0, abs=0.01)
    image = Flow(
        StandardNormal((6,)),
        Chain([ActNorm(2), Reshape.flatten((2, 3, 1))]),
        event_shape=(2, 3, 1),
    )
    assert initialize(image, torch.randn(8, 2, 3, 1)).initialized == ("bijection.layers.0",)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_data_that_are_not_finite_are_refused_before_anything_is_set(bad: float) -> None:
    chain, x = model(), data()
    x[3, 1] = bad
    with pytest.raises(ValueError, match="finite values"):
        initialize(chain, x)
    assert initialize(chain, data()).kept == ()


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match="expected a Bijection, Flow or Dequantized, got Linear"):
        initialize(nn.Linear(3, 3), data())
