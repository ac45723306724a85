"""Classifiers on the scales of flows: what heads see, what is computed, what hybrids agree with."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from flow_core.bijection import Bijection
from flow_core.combinators import Chain
from flow_core.dequantization import Dequantized, UniformDequantizer
from flow_core.distributions import Flow
from flow_core.layers import ActNorm, Affine, Landmark, Normalize, Sightings, Squeeze, landmarks
from flow_core.lipschitz import update_lipschitz
from flow_core.models import (
    ContractiveConfig,
    FlowClassifier,
    HybridModel,
    image_flow,
    scale_heads,
)
from flow_core.passes import Pass
from flow_core.settings import Settings
from flow_logdet import Exact, Kind, LogDet
from flow_solvers import Linearization
from torch import Tensor

SHAPE = (2, 4, 4)
FEW = ContractiveConfig(
    scales=(1, 1), growth=4, depth=1, dense_blocks=1, dense_growth=4, landmarks=True
)
PLAIN = replace(FEW, landmarks=False)


def reals(count: int = 5) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1)).double()


def integers(count: int = 5) -> Tensor:
    return torch.randint(8, (count, *SHAPE), generator=torch.Generator().manual_seed(2))


def flow_of(config: ContractiveConfig) -> Flow:
    torch.manual_seed(0)
    flow = image_flow(config, SHAPE).double()
    update_lipschitz(flow)
    return flow


def classifier(config: ContractiveConfig = FEW) -> FlowClassifier:
    bijection = flow_of(config).bijection
    model = FlowClassifier(bijection, scale_heads(bijection, 3, 6)).double()
    model.initialize(reals())
    return model


def hybrid(config: ContractiveConfig = FEW) -> HybridModel:
    density = Dequantized(flow_of(config), UniformDequantizer(), 8)
    model = HybridModel(density, scale_heads(density, 3, 6)).double()
    model.initialize(integers(), noise=reals())
    return model


@pytest.mark.parametrize(
    "change", [{}, {"factor_out": True}, {"squeeze_first": True, "factor_out": True}], ids=str
)
def test_landmarks_change_no_flow(change: dict[str, Any]) -> None:
    """The squeeze to the next scale ends a scale or begins the next: the layers are the same."""
    with_marks, without = (flow_of(replace(c, **change)) for c in (FEW, PLAIN))
    for flow in (with_marks, without):
        flow.initialize(reals())
    exact = Settings(estimator=Exact())
    found, expected = (f.log_prob(reals(), using=exact) for f in (with_marks, without))
    # Zeros of landmarks change the order of the sum.
    assert torch.allclose(found, expected, rtol=1e-14, atol=0)


def test_heads_see_what_a_scale_makes_behind_the_squeeze_to_the_next() -> None:
    model = classifier()
    bijection = model.bijection
    assert isinstance(bijection, Chain)
    assert [mark.shape for mark in landmarks(model)] == [(8, 2, 2), (8, 2, 2)]
    seen = Sightings()
    bijection(reals(), how=Pass(wants_log_det=False, collector=seen))
    found, x = seen.take(), reals()
    assert not seen.take()
    for layer in bijection:
        x = layer.transform(x)
        if isinstance(layer, Landmark):
            assert torch.equal(found.pop(layer.name), x)
    assert not found


def test_logits_are_those_of_the_heads_written_out() -> None:
    model, x = classifier(), reals()
    assert isinstance(model.bijection, Chain)
    pooled: list[Tensor] = []
    for layer in model.bijection:
        x = layer.transform(x)
        if isinstance(layer, Landmark):
            norm = model.heads.norms[layer.name]
            assert isinstance(norm, ActNorm)
            h = model.heads.convolutions[layer.name](x)
            scale, shift = (p[:, None, None] for p in (norm.log_scale, norm.bias))
            pooled.append(((h + shift) * scale.exp()).clamp(min=0).flatten(2).mean(2))
    expected = model.heads.logits(torch.cat(pooled, 1))
    assert torch.allclose(model(reals()), expected, atol=1e-12)


@pytest.mark.parametrize("block", ["monotone", "residual"])
def test_heads_begin_with_standardised_channels(block: str) -> None:
    model = classifier(replace(FEW, block=block))  # type: ignore[arg-type] # a name of Block
    seen = Sightings()
    model.bijection(reals(), how=Pass(wants_log_det=False, collector=seen))
    for name, features in seen.take().items():
        norm = model.heads.norms[name]
        assert isinstance(norm, Bijection)
        y = norm.transform(model.heads.convolutions[name](features))
        assert y.mean((0, 2, 3)).abs().max() < 1e-10


def estimates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often a log-determinant of a block is asked for."""
    counted: list[int] = []
    original = Exact.log_det

    def counting(self: Exact, linearization: Linearization, kind: Kind) -> LogDet:
        counted.append(1)
        return original(self, linearization, kind)

    monkeypatch.setattr(Exact, "log_det", counting)
    return counted


def test_a_classifier_computes_no_log_determinant(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, exact = estimates(monkeypatch), Settings(estimator=Exact())
    model = classifier()
    torch.autograd.backward(model(reals(), using=exact).sum())
    assert not counted
    # Of the three blocks of the hybrid, the two of images and the one of vectors.
    hybrid()(integers(), noise=reals(), using=exact)
    assert len(counted) == 3


def test_gradients_of_a_classifier_agree_with_differences() -> None:
    model = classifier()
    weight = next(p for p in model.parameters() if p.ndim == 4)
    (gradient,) = torch.autograd.grad(model(reals()).sin().sum(), [weight])
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)).double()
    step, values = 1e-5, list[Tensor]()
    with torch.no_grad():
        for sign in (1, -2):
            weight.add_(sign * step * direction)
            values.append(model(reals()).sin().sum())
    difference = (values[0] - values[1]) / (2 * step)
    assert torch.allclose((gradient * direction).sum(), difference, rtol=1e-6, atol=0)


def test_a_hybrid_has_the_likelihood_of_its_density_and_the_logits_of_a_classifier() -> None:
    model, x, noise = hybrid(), integers(), reals()
    exact = Settings(estimator=Exact())
    log_prob, logits = model(x, noise=noise, using=exact)
    assert torch.equal(log_prob, model.density(x, noise=noise, using=exact))
    alone = FlowClassifier(model.density.flow.bijection, model.heads)
    assert torch.allclose(alone((x + noise) / 8), logits, atol=1e-12)
    with pytest.raises(ValueError, match="the surrogate mode"):
        model(x, using=Settings(mode="surrogate"))


def test_moments_stand_in_for_the_logit() -> None:
    flow = flow_of(replace(FEW, mean=(0.4,), std=(0.2,)))
    assert isinstance(flow.bijection, Chain)
    first = flow.bijection[0]
    assert isinstance(first, Normalize)
    assert first.mean.tolist() == pytest.approx([0.4, 0.4])
    with pytest.raises(ValueError, match="one for each of 2 channels with any padding, got 3"):
        flow_of(replace(FEW, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)))
    for std in ((), (0.2, 0.1), (0.0,)):
        with pytest.raises(ValueError, match="a positive number for each of 1 means"):
            replace(FEW, mean=(0.4,), std=std)


def test_heads_need_landmarks_with_names_of_their_own() -> None:
    with pytest.raises(ValueError, match="got none; give landmarks=True"):
        scale_heads(flow_of(PLAIN), 3)
    twice = Chain(
        [Landmark("a", (1, 4, 4)), Squeeze(), Affine((4, 2, 2)), Landmark("a", (4, 2, 2))]
    )
    with pytest.raises(ValueError, match=r"a name of its own each, got \['a', 'a'\]"):
        scale_heads(twice, 3)
    with pytest.raises(ValueError, match="two classes"):
        scale_heads(flow_of(FEW), 1)
