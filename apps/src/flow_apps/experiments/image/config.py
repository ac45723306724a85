"""A set of images and a flow of contractive blocks."""

from dataclasses import dataclass, field

from flow_apps.config import (
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    require,
    require_counts,
)
from flow_apps.config.contraction import BlockName, ContractionConfig
from flow_apps.config.dequantization import NoiseConfig
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.config.images import ImagesConfig


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """A set of images and a flow of scales, each twice as coarse as the one before.

    Attributes:
        images: Which images.
        block: Kind of the blocks: i-DenseNets are residual.
        scales: Convolutional blocks of every scale.
        growth: Channels that every dense layer adds.
        depth: Dense layers in a block.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        dense_blocks: Blocks on the flattened image at the end.
        dense_growth: Features that their dense layers add.
        alpha: Of the logit transform.
        squeeze_first: Whether the first scale works on halved images already.
        factor_out: Whether half of the channels leave after every scale but the last.
        dequantizer: The noise that makes real numbers of pixels.
        contraction: How Lipschitz constants are kept.
        estimator: How log-determinants are had.
        training: Length, optimizers and reporting.
    """

    images: ImagesConfig = field(default_factory=ImagesConfig)
    block: BlockName = "monotone"
    scales: tuple[int, ...] = (4, 4)
    growth: int = 32
    depth: int = 2
    activation: str = "cpila"
    dense_blocks: int = 2
    dense_growth: int = 32
    alpha: float = 0.05
    squeeze_first: bool = False
    factor_out: bool = False
    dequantizer: NoiseConfig = field(default_factory=NoiseConfig)
    contraction: ContractionConfig = field(
        default_factory=lambda: ContractionConfig(coeff=0.98, learn_concat_from=1)
    )
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            iterations=400,
            batch_size=64,
            optimizer=OptimizerConfig(
                learning_rate=8e-3,
                options={"betas": (0.9, 0.99)},
                schedule=ScheduleConfig(warmup=20, milestones=((0.7, 0.3), (0.88, 0.1))),
            ),
            gradient_clip=1.0,
            ema_decay=0.98,
        )
    )

    def __post_init__(self) -> None:
        require_counts(self, "depth", most=64)
        require_counts(self, "growth", "dense_growth", most=4096)
        require_counts(self, "dense_blocks", least=0, most=1000)
        positive = bool(self.scales) and min(self.scales) > 0
        require(positive, f"scales: expected positive integers, got {self.scales}")
        require(sum(self.scales) <= 1000, f"scales: expected at most 1000, got {self.scales}")
        require(0 <= self.alpha < 0.5, f"alpha: expected in [0, 0.5), got {self.alpha}")
