"""Arguments of a wrong kind are refused where they are given, with what to pass instead."""

from inspect import unwrap
from typing import Any

import pytest
import torch
from flow_core import (
    ActNorm,
    AffineCoupling,
    Chain,
    DenseNet,
    Dequantized,
    Dequantizer,
    FeedForwardNet,
    Flow,
    Implicit,
    Invert,
    LipschitzMap,
    MaskedConv2d,
    Multiscale,
    Residual,
    Settings,
    SigmoidScale,
    Solve,
    StandardNormal,
    UniformDequantizer,
)
from flow_core.bijection import require_bijection
from flow_core.blocks.block import FixedPointBlock
from flow_core.layers import Conv1x1
from flow_core.models import image_flow
from flow_core.modules import require_module
from flow_logdet import PUBLISHED, Exact
from flow_solvers import Gmres, Picard, Tolerance
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper


def refused(kind: Any, said: str, *arguments: object, **named: object) -> None:
    """Make an object as it is made where no types are checked."""
    with pytest.raises(TypeError, match=f"expected .*{said}"):
        unwrap(kind.__init__)(object.__new__(kind), *arguments, **named)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"estimator": Exact}, r"got the class Exact; make one: Exact\("),
        ({"estimator": PUBLISHED["residual-flow-geometric"]}, r"residual_flow_geometric\(\)"),
        ({"estimator": "exact"}, r"estimator such as Exact\(\) or Krylov\(\), got 'exact'"),
        ({"estimator": 3}, "got 3"),
        ({"solve": Picard()}, r"a solver as Solve\(solver=\.\.\.\), got Picard"),
        ({"solve": Solve}, "got the class Solve; make one"),
        ({"compiled": 6}, "a frozenset of batch sizes, got 6"),
        ({"compiled": frozenset(["6"])}, "batch size of compiled to be an integer, got '6'"),
        ({"compiled": frozenset([6.5])}, "an integer, got 6.5"),
    ],
)
def test_settings(named: dict[str, Any], said: str) -> None:
    refused(Settings, said, **named)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"solver": Picard}, r"got the class Picard; make one: Picard\("),
        ({"solver": "picard"}, "got 'picard'"),
        ({"solver": Gmres()}, "not a linear one, got Gmres"),
        ({"adjoint": Gmres}, "got the class Gmres"),
        ({"adjoint": Picard()}, "not one of fixed points, got Picard"),
        ({"tolerance": 1e-3}, r"a Tolerance\(rtol=\.\.\.\), got 0.001"),
        ({"tolerance": Tolerance}, "got the class Tolerance"),
    ],
)
def test_solve(named: dict[str, Any], said: str) -> None:
    refused(Solve, said, **named)


def test_blocks() -> None:
    net = DenseNet(3, growth=2, depth=1)

    def made(*arguments: Any) -> None:
        """What every kind of block is made by."""
        unwrap(FixedPointBlock.__init__)(object.__new__(Residual), *arguments)

    for g, said in ((DenseNet, "the class DenseNet"), (3, "3"), (nn.Linear(3, 3), "Linear")):
        with pytest.raises(TypeError, match=f"expected G to be a LipschitzMap .*, got {said}"):
            made([net, g])
    for solve, said in ((Picard(), "Picard"), ("picard", "'picard'")):
        with pytest.raises(TypeError, match=f"expected solve to be .*, got {said}"):
            made([net], solve)
    assert Residual(net, Solve(solver=Picard())).solve == Solve(solver=Picard())
    assert Implicit(net, net).solve == Solve()


def test_nets() -> None:
    refused(DenseNet, "channels to be an integer, got '3'", "3")
    refused(DenseNet, "growth to be an integer, got 2.0", 3, growth=2.0)
    refused(FeedForwardNet, "hidden to be a list of widths, got 8", 3, 8)
    refused(FeedForwardNet, "every width to be an integer, got 8.5", 3, [8.5])


def test_compositions() -> None:
    layer = ActNorm(2)
    refused(Chain, "every layer to be a Bijection .*, got the class ActNorm", [ActNorm])
    refused(Chain, "every layer to be a Bijection .*, got Linear", [layer, nn.Linear(2, 2)])
    refused(Chain, "layers to be a list of bijections, got ActNorm", layer)
    refused(Invert, "got the class ActNorm; make one", ActNorm)
    refused(
        Multiscale, "scale and prior to be a Bijection .*, got Linear", [nn.Linear(2, 2)], [[2]]
    )


def test_models() -> None:
    base, layer = StandardNormal((2,)), ActNorm(2)
    refused(Flow, "base to be a base such as .*, got ActNorm", layer, base)
    refused(Flow, "bijection to be a Bijection .*, got Linear", base, nn.Linear(2, 2))
    refused(Dequantized, r"flow to be a Flow\(.*\), got ActNorm", layer, None, 2)
    refused(Dequantized, "dequantizer to be a Dequantizer, got None", Flow(base, layer), None, 2)
    refused(Conv1x1, "InvertibleMatrix or a number of channels, got Tensor", torch.eye(3))
    with pytest.raises(TypeError, match=r"config to be a FlowConfig or .*, got dict"):
        unwrap(image_flow)({}, (3, 8, 8))


@pytest.mark.parametrize("scale", [SigmoidScale, "sigmoid"])
def test_scales(scale: object) -> None:
    said = "scale to be a scale function such as .*, got "
    refused(AffineCoupling, said, nn.Identity(), scale)
    refused(MaskedConv2d, said, 4, 8, scale=scale)


def test_wrapped_modules_are_what_they_wrap() -> None:
    """`torch.compile` would be the other wrapper; it turns off checks of torch's distributions."""

    def wrapped(module: nn.Module) -> nn.Module:
        return checkpoint_wrapper(module)

    net = DenseNet(2, growth=2, depth=1)
    flow = Flow(StandardNormal((2,)), Residual(net))
    require_bijection("bijection", wrapped(flow.bijection))
    require_module("G", wrapped(net), LipschitzMap, "a map")
    require_module("flow", wrapped(flow), Flow, "a flow")
    require_module("dequantizer", wrapped(UniformDequantizer()), Dequantizer, "a dequantizer")
    with pytest.raises(TypeError, match="expected bijection to be a Bijection"):
        require_bijection("bijection", wrapped(nn.Linear(2, 2)))


def test_layers_of_a_list_of_modules_make_a_chain() -> None:
    chain = Chain([ActNorm(2), ActNorm(2)])
    again = object.__new__(Chain)
    unwrap(Chain.__init__)(again, chain.layers)
    assert len(again) == 2
