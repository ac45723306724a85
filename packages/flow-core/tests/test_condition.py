"""Flows with a condition number that is given beforehand."""

import math

import pytest
import torch
from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual, inverse_residual
from flow_core.bounds import BlockKind, contraction_for_condition
from flow_core.combinators import Chain
from flow_core.maps import SandwichNet
from torch import Tensor

KINDS: list[BlockKind] = ["residual", "inverse_residual", "implicit", "monotone"]


def block(kind: BlockKind, lipschitz: float) -> Bijection:
    def net() -> SandwichNet:
        return SandwichNet(2, (8,), lipschitz=lipschitz, gain=1 - 1e-6)

    if kind == "implicit":
        return Implicit(net(), net())
    make = {"residual": Residual, "inverse_residual": inverse_residual, "monotone": Monotone}[kind]
    return make(net())


def flow_of(kind: BlockKind, condition: float, count: int) -> Chain:
    lipschitz = contraction_for_condition(condition, kind, count)
    return Chain([block(kind, lipschitz) for _ in range(count)])


@pytest.mark.parametrize("condition", [1.5, 100.0, 1e4])
@pytest.mark.parametrize("count", [1, 3, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_certified_bounds_of_the_whole_flow_stay_below(
    kind: BlockKind, count: int, condition: float
) -> None:
    torch.manual_seed(0)
    bounds = flow_of(kind, condition, count).bounds()
    whole = bounds.transform * bounds.inverse
    assert condition * (1 - 2.5e-2) < whole <= condition


def test_deep_wide_nets_stay_below() -> None:
    torch.manual_seed(0)
    lipschitz = contraction_for_condition(9.0, "residual", 1)
    net = SandwichNet(8, (256,) * 20, lipschitz=lipschitz, gain=1 - 1e-7)
    bounds = Residual(net).bounds()
    assert bounds.transform * bounds.inverse <= 9.0


@pytest.mark.parametrize("condition", [1 + 1e-12, 1.5])
def test_conditions_near_one_and_many_blocks(condition: float) -> None:
    for count in (1, 10**6):
        wanted = math.log(condition) / (2 * count)
        found = contraction_for_condition(condition, "residual", count)
        assert math.atanh(found) == pytest.approx(wanted, rel=1e-5, abs=0)


def conditions(flow: Bijection, x: Tensor) -> Tensor:
    y = flow.transform(x)
    rows = [torch.autograd.grad(y[:, i].sum(), x, create_graph=True)[0] for i in range(2)]
    values: Tensor = torch.linalg.svdvals(torch.stack(rows, 1))
    return values[:, 0] / values[:, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_no_point_and_no_parameters_exceed_it(kind: BlockKind) -> None:
    """By gradient ascent on points and parameters, which comes near it."""
    torch.manual_seed(0)
    flow = flow_of(kind, 9.0, 1).double()
    x = torch.randn(40, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([x, *flow.parameters()], lr=0.05)
    worst = 0.0
    for _ in range(40):
        found = conditions(flow, x)
        optimizer.zero_grad()
        torch.autograd.backward(-found.max())
        optimizer.step()
        worst = max(worst, float(found.detach().max()))
    assert worst <= 9.0
    assert worst > {"residual": 4.0, "inverse_residual": 4.0}.get(kind, 5.0)


def test_what_the_documents_say() -> None:
    assert contraction_for_condition(100.0, "monotone", 6) == pytest.approx(0.19, abs=0.003)
    assert contraction_for_condition(100.0, "residual", 6) == pytest.approx(0.37, abs=0.005)


def test_bad_arguments_are_refused() -> None:
    for condition in (1.0, 0.5, -2.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="condition number above 1"):
            contraction_for_condition(condition, "monotone", 2)
    with pytest.raises(ValueError, match="at least one block"):
        contraction_for_condition(10.0, "monotone", 0)
