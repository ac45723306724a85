"""A two-dimensional density and a flow of equal blocks."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flow_apps.config import TrainingConfig, require_counts, require_spread
from flow_apps.config.contraction import BlockName, ContractionConfig
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.config.optimizer import OptimizerConfig

DensityName: TypeAlias = Literal[
    "2spirals", "8gaussians", "checkerboard", "circles", "moons", "pinwheel", "rings", "swissroll"
]


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
        estimator: How log-determinants are had.
        training: Length, optimizers and reporting.
    """

    density: DensityName = "2spirals"
    block: BlockName = "monotone"
    blocks: int = 10
    growth: int = 16
    depth: int = 3
    activation: str = "cpila"
    test_size: int = 10_000
    contraction: ContractionConfig = field(default_factory=ContractionConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            optimizer=OptimizerConfig(weight_decay=1e-5),
            figures_every=5000,
            compile=True,
            threads=1,
        )
    )

    def __post_init__(self) -> None:
        require_counts(self, "blocks", most=1000)
        require_counts(self, "depth", most=64)
        require_counts(self, "growth", most=4096)
        require_counts(self, "test_size", most=10**8)
        require_spread(self.test_size)
