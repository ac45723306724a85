"""Certified bounds of maps, and their repair."""

import math

import pytest
import torch
from flow_core.lipschitz import (
    Certified,
    LipschitzConv2d,
    LipschitzLayer,
    LipschitzLinear,
    certified_maps,
    lipschitz_certificate,
    repair_lipschitz,
    update_lipschitz,
)
from torch import Tensor, nn


class Net(Certified):
    """Two layers with a bound that is their product."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.first = LipschitzConv2d(3, 4, 3, (6, 6))
        self.last = LipschitzConv2d(4, 3, 3, (6, 6))
        self.gain = gain

    def certificate(self) -> float:
        return self.gain * self.first.certificate() * self.last.certificate()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class Block(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def spoiled(net: Net) -> Net:
    """Large weights with spectral state that has nothing to do with them."""
    for layer in (net.first, net.last):
        with torch.no_grad():
            layer.weight.normal_()
            layer.v.copy_(nn.functional.normalize(torch.randn_like(layer.v), dim=0))
        layer.update_lipschitz(1)
    return net


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(4)


def test_maps_are_named_once_and_layers_inside_are_not() -> None:
    shared = Net()
    model = nn.Sequential(Block(shared), nn.Identity(), Block(shared), Block(Net()))
    model.append(LipschitzLinear(3, 2))
    bounds = lipschitz_certificate(model)
    assert list(bounds) == ["0.net", "3.net", "4"]
    assert bounds["0.net"] == shared.certificate()
    assert lipschitz_certificate(shared) == {"": shared.certificate()}


class Notary(nn.Module):
    """Certifies something else, and has a map inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def certificate(self) -> str:
        return "signed"


def test_a_module_that_only_has_a_method_of_that_name_is_not_listed() -> None:
    model = nn.Sequential(Notary())
    assert list(certified_maps(model)) == ["0.net"]
    assert certified_maps(nn.Module()) == {}


def test_a_certified_module_must_have_a_certificate() -> None:
    with pytest.raises(TypeError, match="abstract method"):
        type("Empty", (Certified,), {})()


def test_an_estimate_that_is_low_is_found_out() -> None:
    net = spoiled(Net())
    assert net.certificate() > 1.0
    update_lipschitz(net, 200)
    assert net.certificate() < 0.98**2 * (1 + 1e-3)


def test_repair_brings_only_the_bad_maps_below_one_and_names_them() -> None:
    model = nn.Sequential(Block(Net()), Block(spoiled(Net())))
    good = {name: t.clone() for name, t in model[0].state_dict().items()}
    assert repair_lipschitz(model) == ["1.net"]
    bounds = lipschitz_certificate(model)
    assert all(bound < 1.0 for bound in bounds.values())
    for name, tensor in model[0].state_dict().items():
        assert torch.equal(tensor, good[name])
    assert repair_lipschitz(model) == []


def test_repair_scales_by_no_more_than_the_excess() -> None:
    net = spoiled(Net())
    before = net.first.effective()[0].detach()
    norm = net.first.certificate()
    assert norm > net.first.coeff
    repair_lipschitz(net)
    after = net.first.effective()[0].detach()
    torch.testing.assert_close(after, before * net.first.coeff / norm, rtol=1e-5, atol=1e-7)
    assert net.certificate() == pytest.approx(0.98**2, rel=1e-4)


def test_repair_of_a_map_with_another_gain_scales_all_layers() -> None:
    net = spoiled(Net(gain=3.0))
    assert repair_lipschitz(net, target=0.9) == [""]
    assert net.certificate() <= 0.9 * (1 + 1e-6)
    with torch.no_grad():
        for layer in (net.first, net.last):
            assert torch.equal(layer.effective()[0], layer.weight)


def test_a_bound_that_is_no_number_is_not_taken_for_fine() -> None:
    net = Net(gain=float("nan"))
    with pytest.raises(ValueError, match="bound of '' is no number"):
        repair_lipschitz(net)


def test_repair_survives_further_spectral_updates() -> None:
    net = spoiled(Net())
    repair_lipschitz(net)
    update_lipschitz(net, 100)
    assert net.certificate() < 1.0


class Hopeless(Certified):
    def certificate(self) -> float:
        return 2.0


def test_a_map_that_cannot_be_repaired_is_named() -> None:
    with pytest.raises(ValueError, match="'0'"):
        repair_lipschitz(nn.Sequential(Hopeless()))


@pytest.mark.parametrize("target", [0.0, 1.0, math.nan])
def test_targets_outside_the_open_unit_interval_are_refused(target: float) -> None:
    with pytest.raises(ValueError, match="0 < target < 1"):
        repair_lipschitz(Net(), target)


def test_layers_are_certified_in_their_own_dtype_and_finite() -> None:
    layer: LipschitzLayer = LipschitzLinear(3, 2).double()
    layer.weight.data.mul_(100)
    update_lipschitz(layer)
    assert layer.certificate() == pytest.approx(0.98, rel=1e-12)
