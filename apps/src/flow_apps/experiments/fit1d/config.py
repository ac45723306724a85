"""A one-dimensional function and a chain of layers that fits it."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flow_apps.config import (
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    require,
    require_counts,
    require_spread,
)
from flow_apps.config.contraction import ContractionConfig

Layer: TypeAlias = Literal["actnorm", "residual", "inverse_residual", "implicit", "monotone"]
TargetName: TypeAlias = Literal["multiplestepfunc", "impflowfunc", "impflow1d"]

# Float32 resolves G of nets of this size to about that much, and samples may come close to zero.
ATOL = 5e-7


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
        training: Length, optimizers and reporting.
    """

    target: TargetName = "multiplestepfunc"
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
            optimizer=OptimizerConfig(
                learning_rate=0.01,
                schedule=ScheduleConfig(milestones=((1 / 3, 0.2), (2 / 3, 0.04))),
            ),
        )
    )

    def __post_init__(self) -> None:
        require(bool(self.layers), "layers: expected at least one layer, got none")
        require(len(self.layers) <= 1000, f"layers: expected at most 1000, got {len(self.layers)}")
        require_counts(self, "depth", most=64)
        require_counts(self, "growth", most=4096)
        require_counts(self, "test_size", most=10**8)
        require_spread(self.test_size)
