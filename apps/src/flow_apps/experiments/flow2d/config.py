"""A two-dimensional density, a flow of couplings or contractive blocks, and a grid."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from flow_apps.config import (
    OptimizerConfig,
    TrainingConfig,
    require,
    require_counts,
    require_spread,
)
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.config.neighbours import only_with
from flow_apps.experiments.toy2d.config import ATOL, DensityName, Toy2dConfig

KindOfFlow: TypeAlias = Literal["affine", "modified-affine", "residual", "monotone", "sandwich"]

_CONTRACTIVE: tuple[KindOfFlow, ...] = ("residual", "monotone", "sandwich")
_OF_CONTRACTIVE = only_with(("kind", _CONTRACTIVE))
_MOST_CELLS = 10**7


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """A grid over a square around zero.

    Attributes:
        extent: Half the side of the square.
        step: Between neighbours.
    """

    extent: float = 8.0
    step: float = 0.05

    def __post_init__(self) -> None:
        for name in ("extent", "step"):
            value = getattr(self, name)
            require(0 < value < inf, f"{name}: expected a positive number, got {value}")
        cells = (2 * self.extent / self.step) ** 2
        require(
            1 <= cells <= _MOST_CELLS,
            f"step: expected 1 to {_MOST_CELLS} points in the square, got {cells:.0f}",
        )


@dataclass(frozen=True, kw_only=True)
class Flow2dConfig:
    """A density, a flow of equal blocks, and the grid on which it is looked at.

    Attributes:
        density: Name of the density, see `flow_data.TOY_DENSITIES`.
        kind: Of the blocks. affine: a coupling in either direction, with scales σ(r + 2);
            modified-affine: with scales ½·σ(r + 2) + ½; residual and monotone blocks of
            feedforward nets; sandwich: monotone blocks of nets that are Lipschitz by construction.
        blocks: Number of blocks.
        width: Of the hidden layers of every net.
        depth: Hidden layers.
        activation: Of contractive blocks, see `flow_core.lipschitz.ACTIVATIONS`.
        grid: Where inverses are looked at.
        test_size: Fresh points of every test.
        contraction: How Lipschitz constants are kept.
        estimator: How log-determinants are had.
        training: Length, optimizers and reporting.
    """

    density: DensityName = "checkerboard"
    kind: KindOfFlow = "affine"
    blocks: int = 100
    width: int = 128
    depth: int = 4
    activation: str = field(default="lipswish", metadata=_OF_CONTRACTIVE)
    grid: GridConfig = field(default_factory=GridConfig)
    test_size: int = 10_000
    contraction: ContractionConfig = field(
        default_factory=lambda: ContractionConfig(coeff=0.7, atol=ATOL), metadata=_OF_CONTRACTIVE
    )
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig, metadata=_OF_CONTRACTIVE)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            optimizer=OptimizerConfig(learning_rate=1e-3), figures_every=5000, threads=1
        )
    )

    def __post_init__(self) -> None:
        require_counts(self, "blocks", most=1000)
        require_counts(self, "depth", most=64)
        require_counts(self, "width", most=4096)
        require_counts(self, "test_size", most=10**8)
        require_spread(self.test_size)

    @property
    def toy(self) -> Toy2dConfig:
        """The same as an experiment with a density, whose data, tests and blocks these are."""
        sandwich = self.kind == "sandwich"
        return Toy2dConfig(
            density=self.density,
            block="residual" if self.kind == "residual" else "monotone",
            blocks=self.blocks,
            net="sandwich" if sandwich else "feedforward",
            width=self.width,
            depth=self.depth,
            activation=self.activation,
            test_size=self.test_size,
            contraction=self.contraction,
            estimator=self.estimator,
            training=self.training,
        )
