"""Two-dimensional densities: i-DenseNets and Monotone Flows with exact log-determinants.

Source: Ahn et al. 2022 (Monotone Flows), §5.1 and Table 1.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Monotone, Residual
from flow_core.combinators import Chain
from flow_core.distributions import Flow
from flow_core.maps import DenseNet
from flow_data.toy import TOY_DENSITIES, sample_toy
from jaxtyping import Float
from torch import Tensor

from flow_apps.errors import ConfigError
from flow_apps.experiments.contraction import ContractionConfig, require_spread
from flow_apps.experiments.density import DensityObjective
from flow_apps.figures.density import draw_density, draw_points
from flow_apps.training import Batch, TrainingConfig, require
from flow_apps.training.overrides import suggestion
from flow_apps.training.randomness import derive_seed, generator

_TEST_SEED = "2-d test points"


@dataclass(frozen=True, kw_only=True)
class Toy2dConfig:
    """A density and a flow of equal blocks.

    Attributes:
        density: Name of the density, see `flow_data.TOY_DENSITIES`.
        block: Kind of the blocks: i-DenseNets are residual.
        blocks: Number of blocks.
        growth: Channels that every dense layer adds.
        depth: Dense layers in a block.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        test_size: Fresh points of every test.
        contraction: How Lipschitz constants are kept.
        training: Length, optimizer and reporting.
    """

    density: str = "2spirals"
    block: Literal["monotone", "residual"] = "monotone"
    blocks: int = 10
    growth: int = 16
    depth: int = 3
    activation: str = "cpila"
    test_size: int = 10_000
    contraction: ContractionConfig = field(default_factory=ContractionConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            weight_decay=1e-5, figures_every=5000, compile=True, threads=1
        )
    )

    def __post_init__(self) -> None:
        if self.density not in TOY_DENSITIES:
            names = list(TOY_DENSITIES)
            hint = suggestion(self.density, names)
            raise ConfigError(
                f"density: expected one of {', '.join(names)}, got {self.density!r}{hint}"
            )
        for name in ("blocks", "growth", "depth", "test_size"):
            value = getattr(self, name)
            require(value > 0, f"{name}: expected a positive integer, got {value}")
        require_spread(self.test_size)


def build_toy_flow(config: Toy2dConfig) -> Flow:
    """The flow of a config, initialised from its seed alone."""
    kinds = {"monotone": Monotone, "residual": Residual}
    contraction = config.contraction
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        layers: list[Bijection] = [
            kinds[config.block](
                DenseNet(
                    2,
                    growth=config.growth,
                    depth=config.depth,
                    activation=config.activation,
                    coeff=contraction.coeff,
                    concat_bound=contraction.concat_bound,
                ),
                contraction.solve(),
            )
            for _ in range(config.blocks)
        ]
    return Flow(StandardNormal((2,)), Chain(layers))


class Toy2dObjective(DensityObjective):
    """Mean negative log-likelihood in nats of fresh points."""

    splits = ("validation", "test")
    selection = ("validation", "nats")
    unit = "nats"
    net: Flow

    def __init__(self, config: Toy2dConfig) -> None:
        super().__init__(config.contraction)
        self.config = config
        self.net = build_toy_flow(config)

    @property
    def model(self) -> Flow:
        """The flow."""
        return self.net

    @property
    def flow(self) -> Flow:
        """The trained flow."""
        return self.net

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean negative log-likelihood."""
        nats = -self.net(batch[0], using=self.using).mean()
        return nats, {"nats": nats.detach()}

    def batch(self, step: int) -> Batch:
        """Fresh points, a function of seed and step."""
        training = self.config.training
        source = generator(training.seed, "training points", step)
        return (sample_toy(self.config.density, training.batch_size, generator=source),)

    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Mean negative log-likelihood of fresh points that do not depend on the seed."""
        size = self.config.test_size if split == "test" else max(1, self.config.test_size // 5)
        return {"nats": float(self._nats(self._points(split, step, size)).mean())}

    def log_likelihoods(self, split: str, draws: int) -> Float[Tensor, " count"]:
        """Log-likelihood of the points of the final test."""
        step = self.config.training.iterations
        return -self._nats(self._points(split, step, self.config.test_size))

    def figures(self, folder: Path, step: int) -> None:
        """The data and the model's density."""
        points = self._points("figure", 0, 5000)
        draw_density(self.net, points, folder / f"density_{step:06d}.png")

    def merit(self, log_likelihood: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
        """Nats."""
        return -log_likelihood

    def test_points(self, count: int) -> Float[Tensor, "count 2"]:
        """Points of the density."""
        return self._points("test", self.config.training.iterations, count)

    def draw_samples(self, samples: Tensor, path: Path) -> None:
        """A histogram of samples."""
        draw_points(samples, path)

    def _points(self, split: str, step: int, count: int) -> Tensor:
        source = generator(_TEST_SEED, split, step)
        device = next(self.net.parameters()).device
        return sample_toy(self.config.density, count, generator=source, device=device)

    def _nats(self, points: Tensor) -> Tensor:
        return -self.net.log_prob(points, using=self.using)
