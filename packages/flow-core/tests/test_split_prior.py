"""Split priors against a normal density that is written out."""

import math

import pytest
import torch
from flow_core.layers import SplitPrior
from torch import Tensor


def batch(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_split_prior_is_the_identity_at_first_and_a_conditional_gaussian_after() -> None:
    x, h = batch(4, 2, 3, 3), batch(4, 5, 3, 3, seed=1)
    layer = SplitPrior.convolutional(5, 2, 8).double()
    y, log_det = layer(x, context=h)
    assert torch.equal(y, x)
    assert torch.equal(log_det, torch.zeros_like(log_det))
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(2))
    y, log_det = layer(x, context=h)
    mean, raw = layer.conditioner(h).chunk(2, 1)
    scale = (4.0 * torch.tanh(raw / 4.0)).exp()
    # log N(x; mean, scale²) - log N(y; 0, 1), without the terms that cancel.
    prior = (-0.5 * ((x - mean) / scale).square() - scale.log()).flatten(1).sum(1)
    base = (-0.5 * y.square()).flatten(1).sum(1)
    assert torch.allclose(base + log_det, prior, rtol=1e-12)


def test_a_split_prior_without_a_bound_is_a_conditional_gaussian() -> None:
    layer = SplitPrior(torch.nn.Identity(), log_scale_bound=None)
    x, h = torch.randn(2, 4, 1, dtype=torch.float64)[..., None], torch.randn(2, 8, 1, 1).double()
    mean, log_scale = (6 * h).chunk(2, 1)
    y, log_det = layer.transform_and_log_det(x, context=6 * h)
    # log N(x; mean, scale²) and log N(y; 0, 1), without the term that both have.
    normal = -0.5 * ((x - mean) / log_scale.exp()).square() - log_scale
    base = -0.5 * y.square()
    found = base.flatten(1).sum(1) + log_det
    torch.testing.assert_close(found, normal.flatten(1).sum(1))
    assert layer.bounds().transform == math.inf


def test_split_prior_scales_stay_within_their_bound() -> None:
    layer = SplitPrior(torch.nn.Identity(), log_scale_bound=2.0)
    raw = torch.tensor([[0.0, 1e6], [0.0, -1e6]])
    _, log_det = layer(torch.zeros(2, 1), context=raw)
    assert torch.allclose(log_det, torch.tensor([-2.0, 2.0]))


def test_split_prior_refuses_a_context_of_another_size() -> None:
    layer = SplitPrior.dense(3, 2, 4)
    with pytest.raises(ValueError, match=r"^SplitPrior: .*a context .*\(batch, 3\), got \(1, 4\)"):
        layer.transform(torch.zeros(1, 2), context=torch.zeros(1, 4))


def test_split_prior_refuses_a_conditioner_of_the_wrong_size() -> None:
    with pytest.raises(ValueError, match=r"^SplitPrior: .* two times the shape"):
        SplitPrior(torch.nn.Identity()).transform(torch.zeros(1, 3), context=torch.zeros(1, 4))
