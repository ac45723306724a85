"""Contexts of maps, and the conditioners that make shifts of them."""

from collections.abc import Callable
from functools import partial
from inspect import unwrap

import pytest
import torch
from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual
from flow_core.combinators import Chain
from flow_core.convolution import same_conv2d
from flow_core.maps import BoundNet, DenseNet, FeedForwardNet, LipschitzMap, ResidualConditioner
from flow_core.maps.conditioner import LinearConditioner
from flow_core.record import record
from torch import nn


def _deeply_conditioned() -> DenseNet:
    conditioner = ResidualConditioner(2, growth=8, depth=3, map_size=(3, 4), width=16, inner=32)
    return DenseNet(3, map_size=(3, 4), growth=8, conditioner=conditioner)


@pytest.mark.parametrize("make", [DenseNet, partial(FeedForwardNet, hidden=[4])])
def test_a_missing_context_is_refused_and_others_may_need_none(
    make: Callable[..., LipschitzMap],
) -> None:
    x, context = torch.randn(3, 2), torch.randn(3, 5)
    needs, needs_none = make(2, context_features=5), make(2)
    message = r"Net: expected a context of shape \(batch, 5\) and .* got None"
    with pytest.raises(ValueError, match=message):
        needs.bind()
    assert needs.uses_context
    assert not needs_none.uses_context
    chain = Chain([Residual(needs), Residual(needs_none)])
    assert torch.equal(chain.transform(x, context=context), chain.transform(x, context=context))
    with pytest.raises(ValueError, match="Chain: expected a context, got None"):
        chain.transform(x)
    with pytest.raises(ValueError, match="Residual: expected no context"):
        Residual(needs_none).transform(x, context=context)


def _implicit(g: LipschitzMap) -> Implicit:
    return Implicit(g, g)


@pytest.mark.parametrize("block", [Residual, Monotone, _implicit])
@pytest.mark.parametrize("map_size", [None, (3, 2)])
def test_a_block_refuses_contexts_that_its_map_is_not_made_for(
    block: Callable[[LipschitzMap], Bijection], map_size: tuple[int, int] | None
) -> None:
    pixels = map_size or ()
    net = DenseNet(1, growth=2, depth=1, context_features=2, map_size=map_size)
    made = block(net)
    x, right = torch.randn(4, 1, *pixels), torch.randn(4, 2, *pixels)
    wrong = [torch.randn(4, 3, *pixels), right[..., None], torch.randn(4, 2, 5, 5)]
    for method in (made.transform, made.inverse, made.forward, made.inverse_and_log_det):
        assert all(torch.isfinite(t).all() for t in method(x, context=right))
        assert all(torch.isfinite(t).all() for t in method(x, context=right.half()))
        for context in wrong:
            with pytest.raises(ValueError, match="expected a context of shape "):
                method(x, context=context)
        with pytest.raises(ValueError, match=r"expected a context of torch\.float32, as x, got"):
            method(x, context=right.double())
        with pytest.raises(ValueError, match=r"expected x of torch\.float32, as the weights, got"):
            method(x.double(), context=right)
    for context in (right[:1], right.sum(), right[0]):
        with pytest.raises(ValueError, match="context for each of the 4 samples"):
            made.transform(x, context=context)
    # What the type annotations exclude already, which only the tests look at.
    with pytest.raises(ValueError, match=r"got torch\.int64; convert it"):
        unwrap(LinearConditioner.features)(net.conditioner, net.bind_weights(), right.long())


def test_deep_conditioners_shift_what_dense_layers_write() -> None:
    torch.manual_seed(0)
    net = _deeply_conditioned().double()
    assert isinstance(net.conditioner, ResidualConditioner)
    w, context = torch.randn(3, 3, 3, 4).double(), torch.randn(3, 2, 3, 4).double()
    trunk = net.conditioner.trunk(context)
    plain, h = net.bind_weights(), w
    assert isinstance(plain, BoundNet)
    for i, activation in enumerate(plain.activations):
        a = same_conv2d(h, plain.weights[i], plain.biases[i])
        h = torch.cat([h, activation.value(a, 1) + net.conditioner.shifts[i](trunk)], 1)
    expected = same_conv2d(h, plain.weights[-1], plain.biases[-1])
    torch.testing.assert_close(net.bind(context)(w), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(expected, plain(w))


@pytest.mark.parametrize("kind", [Monotone, Residual])
def test_a_solve_evaluates_its_conditioner_once(kind: Callable[[LipschitzMap], Bijection]) -> None:
    torch.manual_seed(0)
    net = _deeply_conditioned()
    x, context = torch.randn(3, 3, 3, 4), torch.randn(3, 2, 3, 4)
    assert net.conditioner is not None
    calls = list[nn.Module]()

    def note(module: nn.Module, _inputs: object, _output: object) -> None:
        calls.append(module)

    for module in net.conditioner.modules():
        module.register_forward_hook(note)
    block = kind(net)
    with record() as report:
        y, log_det = block(x.requires_grad_(), context=context)
        x = block.inverse(y.detach(), context=context)
    torch.autograd.backward((y.sum() + log_det.sum(), x.sum()))
    once = [m for m in net.conditioner.modules() if type(m).forward is not nn.Module.forward]
    assert sum(len(solutions) for solutions in report.solutions.values()) >= 1
    assert len(calls) == 2 * len(once)
