"""Nets that are Lipschitz by construction: the transform, the bound, and what would break it."""

import copy
from collections.abc import Sequence
from math import sqrt

import pytest
import torch
from flow_core.blocks import Monotone, Residual
from flow_core.combinators import Chain
from flow_core.lipschitz import (
    ACTIVATIONS,
    SLOPE_RESTRICTED,
    CPila,
    Staircase,
    lipschitz_certificate,
    repair_lipschitz,
    update_lipschitz,
)
from flow_core.maps import BoundNet, SandwichNet
from flow_core.maps.cayley import cayley
from flow_core.maps.sandwich_layer import Sandwich, folded, lipschitz_bound
from torch import Tensor

SHAPES = [(2, (16, 16)), (2, (5,)), (7, (3, 9)), (1, (4, 4, 4)), (3, (1,))]


def made(
    features: int, widths: Sequence[int], scale: float = 1.0, gain: float = 0.9
) -> SandwichNet:
    """With free parameters of a size, and scales p between e⁻⁵ and e⁵."""
    torch.manual_seed(0)
    net = SandwichNet(features, widths, gain=gain)
    with torch.no_grad():
        for free, logs in zip(net.free, net.log_scales, strict=True):
            free.mul_(scale)
            logs.normal_(std=3.0)
    return net


def largest_norm(net: SandwichNet, samples: int = 400) -> float:
    """Of the Jacobian, over random points."""
    x = 3 * torch.randn(samples, net.outputs[-1], dtype=net.last_shift.dtype)
    jacobian = net.bind().linearize(x).jacobian()
    return float(torch.linalg.matrix_norm(jacobian.detach().double(), 2).max())


def orthonormality(v: Tensor) -> float:
    tall = v if v.shape[-2] >= v.shape[-1] else v.mT
    return float((tall.mT @ tall - torch.eye(tall.shape[-1]).double()).abs().max())


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("shape", [(5, 3), (3, 3), (3, 5), (4, 1), (1, 4), (2, 6, 4), (0, 3, 2)])
def test_the_transform_is_orthonormal(shape: tuple[int, ...], scale: float) -> None:
    torch.manual_seed(0)
    v = cayley(scale * torch.randn(shape))
    assert v.shape == shape
    assert v.numel() == 0 or orthonormality(v) < 1e-13 * max(1, scale)


def test_in_float32_it_would_not_be() -> None:
    torch.manual_seed(0)
    free = 1e3 * torch.randn(260, 256)
    x, y = free[:256], free[256:]
    unit = torch.eye(256)
    inverse = torch.linalg.inv(unit + x - x.mT + y.mT @ y)
    single = torch.cat([2 * inverse - unit, -2 * (y @ inverse)])
    assert orthonormality(single.double()) > 1e-4
    assert orthonormality(cayley(free).float().double()) < 1e-6


@pytest.mark.parametrize("shape", [(4, 2), (2, 2), (2, 3)])
def test_derivatives_of_the_transform(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    free = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cayley, free)
    assert torch.autograd.gradgradcheck(cayley, free)


def worst_layer(transposed: bool, lowest: float, highest: float) -> float:
    """The largest ‖2·A S Bᵀ‖ over random contractions [A; B] and slopes S, pushed uphill."""
    torch.manual_seed(0)
    free = torch.randn(200, 8, 4, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(200, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([free, logits], lr=0.1)
    worst = 0.0
    for _ in range(150):
        a, b = torch.split(cayley(free), 4, 1)
        slopes = lowest + (highest - lowest) * torch.sigmoid(logits)
        a = a.mT if transposed else a
        norms = torch.linalg.matrix_norm(2 * (a * slopes.unsqueeze(1)) @ b.mT, 2)
        optimizer.zero_grad()
        torch.autograd.backward(-norms.sum())
        optimizer.step()
        worst = max(worst, float(norms.detach().max()))
    return worst


def test_a_layer_reaches_its_bound_and_does_not_exceed_it() -> None:
    assert 0.999 < worst_layer(transposed=False, lowest=0.0, highest=1.0) <= 1 + 1e-12


def test_a_transposed_matrix_would_break_the_bound() -> None:
    assert worst_layer(transposed=True, lowest=0.0, highest=1.0) > 1.8


def test_slopes_outside_of_the_interval_would_break_the_bound() -> None:
    assert worst_layer(transposed=False, lowest=-0.1, highest=1.1) > 1.15


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize(("features", "widths"), SHAPES)
def test_no_parameters_break_the_certificate(
    features: int, widths: Sequence[int], scale: float
) -> None:
    net = made(features, widths, scale, gain=1 - 1e-6)
    certificate = net.certificate()
    assert largest_norm(net) <= certificate
    assert 0.99 * (1 - 2e-6) < certificate <= 0.99 * (1 + 1e-6)


def test_wide_nets_at_extreme_parameters_keep_the_certificate() -> None:
    net = made(256, [256], 1e3, gain=1 - 1e-6)
    assert largest_norm(net, samples=4) <= net.certificate() <= 0.99 * (1 + 1e-6)


def test_the_gain_is_part_of_the_certificate() -> None:
    net = made(2, (8, 8), gain=0.25)
    assert net.certificate() == pytest.approx(0.99 * 0.25, rel=1e-6)
    net.double()
    assert net.certificate() == pytest.approx(0.99 * 0.25, rel=1e-7)


def test_the_certificate_counts_what_rounding_does_to_folded_weights() -> None:
    torch.manual_seed(0)
    layers = [
        Sandwich(cayley(3 * torch.randn(1, o + m, k)), torch.randn(1, k).double().exp(), o)
        for o, m, k in ((6, 3, 6), (3, 6, 6))
    ]
    exact = folded(layers, 1.0, torch.ones(1).double())
    coarse = [w.to(torch.bfloat16).double() for w in exact]
    bound = lipschitz_bound(layers, exact, coarse, 1.0, 1.0)
    assert lipschitz_bound(layers, exact, exact, 1.0, 1.0) < 1 + 1e-10
    assert 1 + 1e-4 < bound < 1.05
    slopes = torch.rand(4000, 2, 6, dtype=torch.float64).round()
    first, middle, last = (w[0] for w in coarse)
    jacobians = last * slopes[:, 1:] @ (middle * slopes[:, :1]) @ first
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= bound


def test_a_gain_that_vanishes_has_a_certificate() -> None:
    net = made(2, (3,))
    for raw in (-200.0, -1e4):  # the last weight is rounded to subnormal numbers, and is zero
        torch.nn.init.constant_(net.raw_gain, raw)
        assert 0 <= net.certificate() < 1e-30


def test_weights_that_are_not_finite_have_no_certificate() -> None:
    net = made(2, (3,))
    torch.nn.init.constant_(net.free[0], float("nan"))
    with pytest.raises(ValueError, match="expected finite weights"):
        lipschitz_certificate(Residual(net))


def test_a_contraction_of_more_than_one_is_seen() -> None:
    layer = Sandwich(1.1 * cayley(torch.randn(1, 6, 3)), torch.ones(1, 3).double(), 3)
    weights = folded([layer], 1.0, torch.ones(1).double())
    found = lipschitz_bound([layer], weights, weights, 1.0, 1.0)
    assert found == pytest.approx(1.1**2)


def test_folding_is_what_the_layers_compute() -> None:
    net = made(3, (5, 4)).double()
    x = torch.randn(6, 3).double()
    h, root = sqrt(net.lipschitz) * x, sqrt(net.lipschitz)
    for free, logs, shift, outputs in zip(
        net.free, net.log_scales, net.shifts, net.outputs, strict=True
    ):
        a, b = cayley(free).tensor_split([outputs], 0)
        p = (5 * torch.tanh(logs / 5)).exp()
        h = sqrt(2) * (Staircase()(sqrt(2) * h @ b / p + shift, -1) * p) @ a.T
    wanted = root * torch.sigmoid(net.raw_gain) * h + net.last_shift
    torch.testing.assert_close(net.bind()(x), wanted, rtol=1e-12, atol=1e-12)


def test_gradients_reach_every_parameter_of_nets_that_are_bound_together() -> None:
    chain = Chain([Monotone(made(2, (4, 3))) for _ in range(3)]).double()
    alone = copy.deepcopy(chain)
    x = torch.randn(5, 2).double()
    y, log_det = chain(x)
    torch.autograd.backward(y.square().sum() - log_det.sum())
    total = torch.zeros(())
    for block in alone:
        x, log_det = block(x)
        total = total - log_det.sum()
    torch.autograd.backward(x.square().sum() + total)
    for one, other in zip(chain.parameters(), alone.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert bool((one.grad != 0).any())
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-10)


def test_parameters_are_differentiated_twice_through_a_block() -> None:
    block = Residual(made(2, (3,))).double()
    names, values = zip(*block.named_parameters(), strict=True)
    x = torch.randn(3, 2).double()

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        state = dict(zip(names, tensors, strict=True))
        result: tuple[Tensor, ...] = torch.func.functional_call(block, state, (x,))
        return result

    inputs = tuple(v.detach().requires_grad_() for v in values)
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs)


def test_nothing_has_to_be_updated_or_repaired() -> None:
    block = Monotone(made(4, (8,), 100.0))
    before = copy.deepcopy(block.state_dict())
    update_lipschitz(block)
    assert repair_lipschitz(block) == []
    assert lipschitz_certificate(block).keys() == {"g"}
    assert all(torch.equal(before[name], value) for name, value in block.state_dict().items())


@pytest.mark.parametrize("name", SLOPE_RESTRICTED)
def test_restricted_activations_have_slopes_in_the_unit_interval(name: str) -> None:
    a = torch.linspace(-30, 30, 200_001).double().requires_grad_()
    activation = ACTIVATIONS[name]()
    value, slope = activation.value_and_slope(a, -1)
    (derivative,) = torch.autograd.grad(value.sum(), a)
    torch.testing.assert_close(slope, derivative, rtol=1e-8, atol=1e-8)
    assert float(slope.detach().min()) >= 0
    assert float(slope.detach().max()) <= 1
    SandwichNet(2, activation=name)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - set(SLOPE_RESTRICTED)))
def test_other_activations_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"slopes in \[0, 1\]"):
        SandwichNet(2, activation=name)


@pytest.mark.parametrize(("features", "widths"), [(0, (4,)), (2, ()), (2, (4, 0))])
def test_bad_sizes_are_refused(features: int, widths: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="expected positive sizes"):
        SandwichNet(features, widths)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
def test_constants_that_make_no_contraction_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="0 < lipschitz < 1"):
        SandwichNet(2, lipschitz=value)
    with pytest.raises(ValueError, match="0 < gain < 1"):
        SandwichNet(2, gain=value)


def test_instances_of_other_activations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"slopes in \[0, 1\]"):
        SandwichNet(2, activation=CPila())


def test_it_binds_to_a_plain_net() -> None:
    net = SandwichNet(2, (6, 5), context_features=3)
    bound = net.bind(torch.randn(4, 3))
    assert isinstance(bound, BoundNet)
    assert [tuple(w.shape) for w in bound.weights] == [(6, 2), (5, 6), (2, 5)]
    assert sum(p.numel() for p in SandwichNet(2).parameters()) == 18 * 16 + 32 * 16 - 14 * 16 + 67
