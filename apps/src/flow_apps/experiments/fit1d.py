"""One-dimensional functions: what residual, implicit and monotone blocks can represent.

Source: Ahn et al. 2022 (Monotone Flows), Fig. 4; Lu et al. 2021 (Implicit Normalizing Flows),
Fig. 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual, inverse_residual
from flow_core.combinators import Chain
from flow_core.initialization import initialize
from flow_core.layers import ActNorm
from flow_core.maps import DenseNet, FeedForwardNet, LipschitzMap
from flow_data.functions import TARGETS, sample_target
from jaxtyping import Float
from torch import Tensor

from flow_apps.errors import ConfigError
from flow_apps.experiments.contraction import ContractionConfig, require_spread
from flow_apps.experiments.invertible import InvertibleObjective
from flow_apps.figures.fit import draw_fit
from flow_apps.training import Batch, TrainingConfig, require
from flow_apps.training.overrides import suggestion
from flow_apps.training.randomness import derive_seed, generator

Layer = Literal["actnorm", "residual", "inverse_residual", "implicit", "monotone"]

# Float32 resolves G of nets of this size to about that much, and samples may come close to zero.
ATOL = 5e-7
_TEST_SEED = "1-d test points"
_GRID = 2001


@dataclass(frozen=True, kw_only=True)
class Fit1dConfig:
    """A function and a chain of layers.

    Attributes:
        target: Name of the function, see `flow_data.TARGETS`.
        layers: The layers from first to last.
        net: Kind of the maps in the blocks.
        growth: Width of a hidden layer, or channels that a dense layer adds.
        depth: Hidden or dense layers of a map.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        test_size: Fresh points of every test.
        contraction: How Lipschitz constants are kept.
        training: Length, optimizer and reporting.
    """

    target: str = "multiplestepfunc"
    layers: tuple[Layer, ...] = ("actnorm", "monotone", "actnorm", "monotone", "actnorm")
    net: Literal["dense", "feedforward"] = "dense"
    growth: int = 128
    depth: int = 4
    activation: str = "crelu"
    test_size: int = 10_000
    contraction: ContractionConfig = field(
        default_factory=lambda: ContractionConfig(
            coeff=0.99, concat_bound=0.99, learn_concat_from=1, atol=ATOL
        )
    )
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            iterations=15_000,
            batch_size=5000,
            learning_rate=0.01,
            milestones=((1 / 3, 0.2), (2 / 3, 0.04)),
        )
    )

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            hint = suggestion(self.target, list(TARGETS))
            raise ConfigError(
                f"target: expected one of {', '.join(TARGETS)}, got {self.target!r}{hint}"
            )
        require(bool(self.layers), "layers: expected at least one layer, got none")
        for name in ("growth", "depth", "test_size"):
            value = getattr(self, name)
            require(value > 0, f"{name}: expected a positive integer, got {value}")
        require_spread(self.test_size)


def build_chain(config: Fit1dConfig) -> Chain:
    """The layers of a config, initialised from its seed alone."""
    solve = config.contraction.solve()

    def net() -> LipschitzMap:
        """A map of its own for every block."""
        return _net(config)

    makers: dict[Layer, Callable[[], Bijection]] = {
        "actnorm": lambda: ActNorm(1),
        "residual": lambda: Residual(net(), solve),
        "inverse_residual": lambda: inverse_residual(net(), solve),
        "implicit": lambda: Implicit(net(), net(), solve),
        "monotone": lambda: Monotone(net(), solve),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        return Chain([makers[name]() for name in config.layers])


class Fit1dObjective(InvertibleObjective):
    """Mean squared error of a chain of layers against a function."""

    selection = ("validation", "mse")
    unit = "mse"
    net: Chain

    def __init__(self, config: Fit1dConfig) -> None:
        super().__init__(config.contraction)
        self.config = config
        self.net = build_chain(config)

    @property
    def model(self) -> Chain:
        """The chain."""
        return self.net

    def initialize(self, batch: Batch) -> None:
        """Standardise the input of every block."""
        if "actnorm" in self.config.layers:
            initialize(self.net, batch[0])

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean squared error."""
        x, y = batch
        mse = (self.net.transform(x, using=self.using) - y).square().mean()
        return mse, {"mse": mse.detach()}

    def batch(self, step: int) -> Batch:
        """Fresh points, a function of seed and step."""
        training = self.config.training
        source = generator(training.seed, "training points", step)
        return sample_target(self.config.target, training.batch_size, source)

    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Mean squared error on fresh points that do not depend on the seed."""
        return {"mse": float(self._squared_errors(split, step).mean())}

    def figures(self, folder: Path, step: int) -> None:
        """The function and its fit."""
        draw_fit(*self.fitted(), folder / f"fit_{step:06d}.png")

    def fitted(self) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
        """Points of a grid over the domain, the function there and its fit."""
        target = TARGETS[self.config.target]
        x = torch.linspace(*target.domain, _GRID, device=self._device())[:, None]
        return x, target.function(x), self.net.transform(x, using=self.using)

    @property
    def bijection(self) -> Bijection:
        """The chain."""
        return self.net

    def test_points(self, count: int) -> Float[Tensor, " count 1"]:
        """Points of the final test."""
        return self._points("test", self.config.training.iterations)[0][:count]

    def per_sample(self, split: str) -> Float[Tensor, " count"]:
        """Squared error of every point of the final test."""
        return self._squared_errors(split, self.config.training.iterations)

    def _squared_errors(self, split: str, step: int) -> Tensor:
        x, y = self._points(split, step)
        return (self.net.transform(x, using=self.using) - y).square().flatten()

    def _points(self, split: str, step: int) -> tuple[Tensor, Tensor]:
        source = generator(_TEST_SEED, split, step)
        return sample_target(
            self.config.target, self.config.test_size, source, device=self._device()
        )

    def _device(self) -> torch.device:
        return next(self.net.parameters()).device


def _net(config: Fit1dConfig) -> LipschitzMap:
    contraction = config.contraction
    if config.net == "feedforward":
        hidden = [config.growth] * config.depth
        return FeedForwardNet(1, hidden, activation=config.activation, coeff=contraction.coeff)
    return DenseNet(
        1,
        growth=config.growth,
        depth=config.depth,
        activation=config.activation,
        coeff=contraction.coeff,
        concat_bound=contraction.concat_bound,
    )
