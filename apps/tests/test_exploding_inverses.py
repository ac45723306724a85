"""Inverses explode where nothing keeps them, and penalties keep them.

The ranking of Behrmann et al. 2021, Table 2, on noise with random labels: unregularized affine
couplings lose the inverse in float32, additive ones come next, regularized ones keep it.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import pytest
import torch
from flow_apps.config.classification import HeadsConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.config.stability import StabilityConfig
from flow_apps.experiments.inn_classify.config import InnClassifyConfig
from flow_apps.experiments.inn_classify.loss import InnLoss
from flow_apps.experiments.inn_classify.model import build_model
from flow_apps.parts.stability import Stability
from flow_apps.training import Batch, Ranks, Workers
from flow_core.settings import Settings
from torch import Tensor

Block: TypeAlias = Literal["affine", "additive"]

_SHAPE = (3, 8, 8)
_COUNT, _BATCH = 512, 64
_PENALTIES = {
    "none": RegularizersConfig(),
    "nf": RegularizersConfig(density=1e-3),
    # 1e-2 of the sum over the batch divided by a step of .1.
    "fd": RegularizersConfig(fd_forward=0.064, fd_inverse=0.064, every=10),
}
_QUICK, _WHOLE = (4, 60, 8e-3), (8, 600, 2e-3)


def noise() -> tuple[Tensor, Tensor]:
    """Normal images in 256 levels, with random labels."""
    source = torch.Generator().manual_seed(0)
    x = 127.5 + 42.5 * torch.randn(_COUNT, *_SHAPE, generator=source)
    y = torch.randint(0, 10, (_COUNT,), generator=source)
    return x.round().clamp(0, 255).to(torch.uint8), y


def workers() -> Workers:
    return Workers(Ranks(0, 1, torch.device("cpu")), (0, "stability"))


@lru_cache
def trained(block: Block, penalty: str, depth: int, steps: int, rate: float) -> Mapping[str, float]:
    """The stability of a network after so many steps of Adam, on images of the training set."""
    config = InnClassifyConfig(
        images=ImagesConfig(data="npz", shape=_SHAPE),
        heads=HeadsConfig(classes=10),
        block=block,
        levels=2,
        depth=depth,
        width=32,
        mean=(0.5,),
        std=(1 / 6,),
        regularizers=_PENALTIES[penalty],
        stability=StabilityConfig(images=64, jacobians=2, chunk=192),
    )
    (x, y), model = noise(), build_model(config)
    loss = InnLoss(model, config, Settings())
    loss.initialize(Batch(x, y))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    torch.manual_seed(0)
    for step in range(1, steps + 1):
        chosen = torch.randperm(_COUNT)[:_BATCH]
        optimizer.zero_grad()
        torch.autograd.backward(loss(Batch(x[chosen], y[chosen], step=step))[0])
        optimizer.step()
    points = (x.float() + 0.5) / 256
    stability = Stability(model.bijection, lambda count: points[:count], config.stability)
    with torch.no_grad():
        logits = model.eval()(points)
        found = stability.measure(workers())
    return {**found, "accuracy": float((logits.argmax(1) == y).float().mean())}


def require_lost(found: Mapping[str, float]) -> None:
    """In float32; in float64 the inverse is there."""
    assert found["reconstruction_nan"] + found["reconstruction_inf"] > 0 or (
        found["reconstruction_max"] > 1e-1
    )
    assert found["reconstruction64_nan"] == found["reconstruction64_inf"] == 0
    assert found["reconstruction64_max"] < 1e-3
    assert found["condition"] > 1e4


def require_kept(found: Mapping[str, float]) -> None:
    """In float32 too."""
    assert found["reconstruction_nan"] == found["reconstruction_inf"] == 0
    assert found["reconstruction_max"] <= 1e-4
    assert found["condition"] <= 100


def test_affine_couplings_lose_their_inverse_and_the_density_of_data_keeps_it() -> None:
    free, kept = trained("affine", "none", *_QUICK), trained("affine", "nf", *_QUICK)
    require_lost(free)
    require_kept(kept)
    assert kept["condition"] < free["condition"] / 100


@pytest.mark.slow
def test_the_ranking_of_the_paper_with_all_data_fitted() -> None:
    found = {
        (block, penalty): trained(block, penalty, *_WHOLE)
        for block in get_args(Block)
        for penalty in _PENALTIES
    }
    # With every label learned: what is lost is not a matter of accuracy.
    assert all(row["accuracy"] > 0.99 for row in found.values())
    free, additive = found["affine", "none"], found["additive", "none"]
    require_lost(free)
    assert additive["reconstruction_nan"] == additive["reconstruction_inf"] == 0
    for block in get_args(Block):
        for penalty in ("nf", "fd"):
            kept = found[block, penalty]
            require_kept(kept)
            assert kept["condition"] < additive["condition"] < free["condition"]
            assert kept["reconstruction_max"] < additive["reconstruction_max"] < 1e-2
