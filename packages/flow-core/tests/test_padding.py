"""Channels of noise beside images: their densities, and what they make of a likelihood."""

import math

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.combinators import Chain
from flow_core.dequantization import (
    Dequantized,
    NormalPadding,
    Padding,
    UniformDequantizer,
    UniformPadding,
)
from flow_core.distributions import Flow
from flow_core.layers import LogitTransform, Reshape
from flow_core.views import frozen
from torch import Tensor

LEVELS = 4
KINDS: list[type[Padding]] = [UniformPadding, NormalPadding]


def padded(padding: Padding | None) -> Dequantized:
    """Independent values that are standard normal behind a logit, one channel of them integers."""
    shape = (1 + (0 if padding is None else padding.channels), 1, 1)
    layers = Chain([LogitTransform(0.0), Reshape.flatten(shape)])
    flow = Flow(StandardNormal((shape[0],)), layers, shape)
    return Dequantized(flow, UniformDequantizer(), LEVELS, padding=padding).double()


def masses() -> Tensor:
    """P(x) of every integer."""
    edges = torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64).logit()
    ends: Tensor = torch.special.ndtr(edges)
    return ends[1:] - ends[:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_is_that_of_what_is_drawn(kind: type[Padding]) -> None:
    noise = torch.linspace(0.01, 0.99, 21, dtype=torch.float64).view(-1, 1).requires_grad_()
    e, log_prob = kind(1).draw(noise, LEVELS)
    (slope,) = torch.autograd.grad(e.sum(), noise)
    torch.testing.assert_close(log_prob.detach(), -slope.log().flatten(), rtol=1e-9, atol=1e-9)
    assert bool(((e >= 0) & (e <= 1)).all())


def test_normal_padding_has_the_stated_moments_and_stays_inside() -> None:
    ends = torch.tensor([[0.0], [1 - 1e-15]], dtype=torch.float64)
    found = NormalPadding(1).draw(ends, LEVELS)[0].flatten().tolist()
    assert found == pytest.approx([0.0, 1.0], abs=1e-9)
    torch.manual_seed(0)
    e, _ = NormalPadding(1).draw(torch.rand(100_000, 1, dtype=torch.float64), LEVELS)
    assert float(e.mean()) == pytest.approx(0.5, abs=2e-3)
    assert float(e.std()) == pytest.approx(1 / 8, abs=2e-3)


@pytest.mark.parametrize(("kind", "share"), [(NormalPadding, 1.0), (UniformPadding, None)])
def test_mean_weights_are_probabilities(kind: type[Padding], share: float | None) -> None:
    """By the midpoint rule over all noise; uniform padding is a channel of the integer 0."""
    share = float(masses()[0]) if share is None else share
    line = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    noise = torch.cartesian_prod(line, line).view(-1, 2, 1, 1)
    model = padded(kind(1))
    for x, expected in enumerate(masses().tolist()):
        images = torch.full((len(noise), 1, 1, 1), x)
        log_prob = model.log_prob_bound(images, noise=noise)
        assert float(log_prob.exp().mean()) == pytest.approx(share * expected, rel=1e-2)
        assert float(log_prob.mean()) < math.log(share * expected)


def test_padding_is_seen_by_the_flow_alone() -> None:
    model = padded(NormalPadding(2))
    x = torch.tensor([0, 3]).view(2, 1, 1, 1)
    assert tuple(model.event_shape) == (1, 1, 1)
    assert tuple(model.noise_shape) == (3, 1, 1)
    y = model.centres(x)
    assert y.flatten(1).tolist() == [[0.125, 0.5, 0.5], [0.875, 0.5, 0.5]]
    assert torch.equal(model.visible(y), y[:, :1])
    assert model.sample((5,)).shape == (5, 1, 1, 1)
    assert model.initialize(x).shape == (2, 3)
    assert frozen(model).padding == model.padding
    noise = torch.rand(2, 3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(model(x, noise=noise), frozen(model)(x, noise=noise))
    assert padded(None).visible(y) is y


def test_what_does_not_fit_a_padding_is_refused() -> None:
    model, x = padded(UniformPadding(1)), torch.zeros(2, 1, 1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"expected noise of shape \(2, 2, 1, 1\).*got \(2, 1"):
        model(x, noise=torch.rand(2, 1, 1, 1))
    with pytest.raises(ValueError, match="expected channels to be at least 1, got 0"):
        UniformPadding(0)
    with pytest.raises(ValueError, match="more channels than the 2 of the padding"):
        Dequantized(model.flow, UniformDequantizer(), LEVELS, padding=UniformPadding(2))
