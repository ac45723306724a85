"""Points of the plane and their projections."""

import torch
from flow_data import Share, batch_indices
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.regression2d.config import Regression2dConfig
from flow_apps.training import Batch
from flow_apps.training.randomness import generator

_SEED = "points of the plane"


def drawn(config: Regression2dConfig, split: str, count: int) -> Batch:
    """Normal points with their targets, the same for every seed of a run."""
    source = generator(_SEED, split)
    x = torch.randn(count, 2, generator=source)
    noise = torch.randn(count, generator=source)
    return Batch(x, projected(x, config.noise * noise))


def projected(
    x: Float[Tensor, "count 2"], noise: Float[Tensor, " count"]
) -> Float[Tensor, "count 2"]:
    """(x₁, x₂) ↦ (noise, x₂)."""
    return torch.stack([noise, x[:, 1]], 1)


class Regression2dBatches:
    """The training points in an order that follows from seed and step."""

    def __init__(self, config: Regression2dConfig) -> None:
        self.config = config
        self.points = drawn(config, "train", config.points)

    def batch(self, step: int, share: Share) -> Batch:
        """A share of a step."""
        training, points = self.config.training, self.points
        x, y = points.x, points.y
        order = batch_indices(len(x), training.batch_size, step - 1, seed=training.seed)
        chosen = share.of(order)
        assert y is not None
        return Batch(x[chosen], y[chosen])
