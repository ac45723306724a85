"""Views that hold bound maps, and weights that layers make themselves."""

import copy
import pickle
from typing import Any, cast

import pytest
import torch
from flow_core import (
    Affine,
    Bijection,
    Chain,
    DenseNet,
    Flow,
    Invert,
    Monotone,
    Pass,
    Residual,
    Settings,
    Solve,
    StandardNormal,
    frozen,
    update_lipschitz,
)
from flow_solvers import Tolerance
from torch import Tensor, nn
from torch.func import functional_call

PRECISE = Solve(tolerance=Tolerance(rtol=1e-13))


def moved(model: nn.Module) -> nn.Module:
    """Away from the initial point, in float64."""
    torch.manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model = model.double()
    update_lipschitz(model, 200)
    return model


def net(dim: int, **settings: Any) -> DenseNet:
    return DenseNet(dim, growth=4, depth=2, coeff=0.9, **settings)


def chain_and_point() -> tuple[Chain, Tensor]:
    layers = [Residual(net(2)), Affine((2,)), Monotone(net(2)), Residual(net(2))]
    chain = cast(Chain, moved(Chain(layers)))
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return chain, x


def test_a_frozen_view_holds_weights_and_lets_input_gradients_through() -> None:
    chain, x = chain_and_point()
    chain.eval()
    view = frozen(chain)
    before = view.transform(x)
    torch.testing.assert_close(before, chain.transform(x))
    for block in (chain[0], chain[2]):
        for p in block.parameters():
            p.data.mul_(0.5)
    torch.testing.assert_close(view.transform(x), before, rtol=0, atol=0)
    assert not torch.allclose(chain.transform(x), before)
    point = x.clone().requires_grad_()
    y, log_det = view(point)
    parameters = list(chain[0].parameters())
    grads = torch.autograd.grad(y.sum() + log_det.sum(), [point, *parameters], allow_unused=True)
    assert grads[0] is not None
    assert not any(g is not None for g in grads[1:])
    for other in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        torch.testing.assert_close(other.transform(x), before, rtol=0, atol=0)


def test_views_nest_and_a_flow_has_one_too() -> None:
    flow = Flow(StandardNormal((2,)), Chain([Residual(net(2)), Monotone(net(2))]))
    x = torch.randn(4, 2)
    view = frozen(frozen(flow))
    assert isinstance(view, Flow)
    before = view.log_prob(x)
    torch.testing.assert_close(before, flow.log_prob(x))
    moved_ = cast(Flow, moved(flow).float())
    torch.testing.assert_close(view.log_prob(x), before)
    assert not torch.allclose(moved_.log_prob(x), before)


def test_a_view_stays_frozen_inside_a_composition_and_inside_a_view() -> None:
    block = cast(Residual, moved(Residual(net(2))))
    x = torch.randn(4, 2).double()
    view = frozen(block)
    models = [Chain([view]), Invert(Chain([Chain([view])])), frozen(Chain([view])), frozen(view)]
    before = [model.transform(x) for model in models]
    for p in block.parameters():
        p.data.mul_(0.5)
    for model, expected in zip(models, before, strict=True):
        torch.testing.assert_close(model.transform(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(frozen(view).transform(x), before[0], rtol=0, atol=0)


def test_a_view_holds_conditioners_too() -> None:
    block = cast(Residual, moved(Residual(net(2, context_features=3))))
    view = frozen(block)
    x, context = torch.randn(4, 2).double(), torch.randn(4, 3).double().requires_grad_()
    before = view.transform(x, context=context)
    (gradient,) = torch.autograd.grad(before.sum(), context)
    assert bool(gradient.abs().sum() > 0)
    assert not frozen(block).transform(x, context=context.detach()).requires_grad
    for p in block.parameters():
        p.data.mul_(0.5)
    torch.testing.assert_close(view.transform(x, context=context), before, rtol=0, atol=0)
    single = copy.deepcopy(view).float().transform(x.float(), context=context.float())
    torch.testing.assert_close(single, before.float())


class Hyper(Bijection):
    """A layer that calls another one with weights that it has made itself."""

    def __init__(self, inner: Bijection) -> None:
        super().__init__(inner.event_shape)
        self.inner = inner
        self.log_scale = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._called(x, how)

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._called(y, how)

    def _called(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        scale = self.log_scale.exp()
        state = {name: p * scale for name, p in self.inner.named_parameters()}
        result = functional_call(self.inner, state, (x,), {"how": how})
        return cast("tuple[Tensor, Tensor]", result)


def test_a_composition_leaves_weights_alone_that_a_layer_makes_itself() -> None:
    layer = Hyper(cast(Residual, moved(Residual(net(2))))).eval()
    x = torch.randn(4, 2).double()
    y = Chain([layer]).transform(x)
    torch.testing.assert_close(y, layer.transform(x), rtol=0, atol=0)
    assert not torch.allclose(y, layer.inner.transform(x))
    back = Chain([layer]).inverse(y, using=Settings(solve=PRECISE))
    torch.testing.assert_close(back, x)
    (gradient,) = torch.autograd.grad(y.sum(), layer.log_scale)
    assert float(gradient.abs()) > 0


def test_how_is_passed_on_alone() -> None:
    block, x = Residual(net(2)), torch.randn(4, 2)
    flow = Flow(StandardNormal((2,)), block)
    for model in (block, flow):
        with pytest.raises(ValueError, match=f"{type(model).__name__}: expected how alone"):
            model(x, how=Pass(), context=x)
        with pytest.raises(ValueError, match=f"{type(model).__name__}: expected how alone"):
            model(x, how=Pass(), using=Settings())
