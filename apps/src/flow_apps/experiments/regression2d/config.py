"""A projection of the plane, and a flow of affine couplings that is fitted to it."""

from dataclasses import dataclass, field
from math import inf

from flow_apps.config import (
    OptimizerConfig,
    TrainingConfig,
    require,
    require_counts,
    require_spread,
)
from flow_apps.config.regularizers import RegularizersConfig


@dataclass(frozen=True, kw_only=True)
class Regression2dConfig:
    """The map (x₁, x₂) ↦ (0, x₂) at normal points, and a flow of equal steps.

    Attributes:
        steps: Steps of an ActNorm, an exchange of the two values and an affine coupling.
        width: Of the two hidden layers of every coupling.
        affine_eps: What is added to the scales σ(r + 2) of couplings.
        noise: Standard deviation of the first value of targets.
        points: Training points, drawn once.
        test_size: Fresh points of the test.
        regularizers: Penalties on the conditioning.
        training: Length, optimizers and reporting.
    """

    steps: int = 24
    width: int = 10
    affine_eps: float = 1e-6
    noise: float = 1e-12
    points: int = 10_000
    test_size: int = 10_000
    regularizers: RegularizersConfig = field(default_factory=RegularizersConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            iterations=40_000,
            batch_size=10_000,
            optimizer=OptimizerConfig(learning_rate=1e-4),
            log_every=200,
            evaluate_every=200,
            figures_every=2000,
            threads=1,
        )
    )

    def __post_init__(self) -> None:
        require_counts(self, "steps", most=1024)
        require_counts(self, "width", most=4096)
        require_counts(self, "points", "test_size", most=10**8)
        require_spread(self.test_size)
        for name in ("affine_eps", "noise"):
            value = getattr(self, name)
            require(0 <= value < inf, f"{name}: expected 0 or more, got {value}")
        size = self.training.batch_size
        require(
            size <= self.points, f"batch_size: expected at most points={self.points}, got {size}"
        )
