"""Contractions stay contractions while they are trained, and a forgotten update is noticed."""

import warnings
from collections.abc import Callable

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.blocks import Residual
from flow_core.combinators import Chain
from flow_core.distributions import Flow
from flow_core.initialization import initialize
from flow_core.layers import ActNorm
from flow_core.lipschitz import (
    GolubKahan,
    LipschitzConv2d,
    PowerIteration,
    SpectralMethod,
    StaleNormWarning,
    effective_weights,
    lipschitz_certificate,
    lipschitz_layers,
    repair_lipschitz,
    update_lipschitz,
)
from flow_core.maps import DenseNet, FeedForwardNet
from torch import Tensor
from torch.nn import functional


def smooth_images(count: int, generator: torch.Generator) -> Tensor:
    """Few coarse pixels, enlarged: weights grow quickly on such data, in changing directions."""
    coarse = torch.randn(count, 3, 2, 2, generator=generator)
    noise = torch.randn(count, 3, 8, 8, generator=generator)
    return functional.interpolate(coarse, size=(8, 8), mode="bilinear") + 0.05 * noise


def largest_certificates(method: SpectralMethod, steps: int) -> list[float]:
    """The largest bound of the maps after every step of the documented training loop."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = DenseNet(3, growth=8, depth=2, map_size=(8, 8))
    flow = Flow(StandardNormal((3, 8, 8)), Chain([ActNorm(3), Residual(net)]))
    for layer in lipschitz_layers(flow):
        if isinstance(layer, LipschitzConv2d) and not layer.is_matrix:
            layer.spectral = method
    initialize(flow, smooth_images(64, generator))
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    bounds: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(-flow(smooth_images(16, generator)).mean())
        optimizer.step()
        update_lipschitz(flow)
        bounds.append(max(lipschitz_certificate(flow).values()))
    return bounds


def test_bounds_are_proven_below_one_after_every_step_of_the_documented_loop() -> None:
    nominal = 0.98 * 0.98**2  # of the last layer, and of two concatenations
    bounds = largest_certificates(GolubKahan(), 60)
    assert max(bounds) < 1
    assert max(bounds) < 1.03 * nominal


def test_that_test_sees_norms_that_are_followed_too_loosely() -> None:
    assert max(largest_certificates(PowerIteration(2, 0.0), 60)) > 1.1


class Trained:
    """A model and a batch for it."""

    def __init__(self, model: Chain | Residual, x: Tensor) -> None:
        self.model, self.x = model, x

    def __call__(self) -> object:
        return self.model(self.x)


def vectors() -> Trained:
    """Chained blocks in two dimensions, whose weights are bound together."""
    chain = Chain([Residual(DenseNet(2, growth=4, depth=1)) for _ in range(3)])
    return trained(chain, torch.randn(8, 2))


def large_vectors() -> Trained:
    return trained(Residual(FeedForwardNet(6, [8])), torch.randn(8, 6))


def images() -> Trained:
    return trained(
        Residual(DenseNet(2, growth=4, depth=1, map_size=(4, 4))), torch.randn(2, 2, 4, 4)
    )


def trained(model: Chain | Residual, x: Tensor) -> Trained:
    """Twenty steps without an update, then a pass in the mode that the model is in."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StaleNormWarning)
        for _ in range(20):
            y, log_det = model(x)
            optimizer.zero_grad()
            torch.autograd.backward((y.square().flatten(1).sum(1) - log_det).mean())
            optimizer.step()
    return Trained(model, x)


@pytest.mark.parametrize("make", [vectors, large_vectors, images])
def test_a_forgotten_update_is_noticed(make: Callable[[], Trained]) -> None:
    torch.manual_seed(0)
    run = make()
    with pytest.warns(StaleNormWarning, match="call update_lipschitz\\(model\\) after every"):
        run()
    update_lipschitz(run.model)
    run()


@pytest.mark.parametrize("make", [vectors, large_vectors, images])
def test_passes_without_training_do_not_look(make: Callable[[], Trained]) -> None:
    torch.manual_seed(0)
    run = make()
    with torch.no_grad():
        run()
    run.model.eval()
    run()


def test_an_update_of_some_maps_only_is_noticed() -> None:
    torch.manual_seed(0)
    run = vectors()
    assert isinstance(run.model, Chain)
    update_lipschitz(run.model[0])
    update_lipschitz(run.model[2])
    with pytest.warns(StaleNormWarning):
        run()


def test_layers_on_their_own_notice_too() -> None:
    net = FeedForwardNet(5, [6, 6])
    layers = lipschitz_layers(net)
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(1.5)
    for act in (layers[0].effective, lambda: effective_weights(layers)):
        with pytest.warns(StaleNormWarning):
            act()


def test_a_repair_and_a_state_are_no_forgotten_updates() -> None:
    net = DenseNet(3, growth=4, depth=1)
    with torch.no_grad():
        for layer in lipschitz_layers(net):
            layer.weight.mul_(1e3)
            layer.direction.mul_(0.5)
    assert repair_lipschitz(net)
    net.bind()
    other = DenseNet(3, growth=4, depth=1)
    other.load_state_dict(net.state_dict())
    other.bind()
