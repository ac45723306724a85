"""A set of images with classes, and a network of contractive blocks."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flow_apps.config import (
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    require,
    require_counts,
)
from flow_apps.config.classification import HeadsConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.neighbours import only_with, reset_with, without_effect

NetworkName: TypeAlias = Literal["flow", "resnet", "cnn"]
BlockOfClassifier: TypeAlias = Literal["monotone", "residual", "implicit", "plain"]

_BLOCKS: dict[NetworkName, tuple[BlockOfClassifier, ...]] = {
    "flow": ("monotone", "residual", "implicit"),
    "resnet": ("implicit", "residual", "plain"),
    "cnn": ("plain",),
}
_IN_BOTH = reset_with("network", "implicit")
_OF_FLOWS, _OF_RESNETS = only_with(("network", ("flow",))), only_with(("network", ("resnet",)))
_STANDARDISED = only_with(("network", ("flow", "cnn")))
_OF_CONTRACTIONS = only_with(("network", ("flow", "resnet")))


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """A set of images and a network of blocks.

    Attributes:
        images: Which images.
        network: flow: scales of blocks, each twice as coarse as the one before, with heads on them.
            resnet: a ResNet-18 with contractive blocks in the place of its own, where images shrink
            by strided convolutions and nothing else is invertible. cnn: the small network that
            judges samples of digits, see `flowgan`.
        block: Kind of the blocks: i-DenseNets are residual; implicit ones have two maps each; plain
            ones, of a resnet, have batch normalisations and no bound; a cnn is plain.
        scales: Of a flow: blocks of every scale.
        growth: Of a flow: channels that every dense layer adds.
        depth: Of a flow: dense layers in a block.
        activation: Of a flow: name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        widths: Of a resnet: channels of every stage.
        heads: What tells the classes; a resnet and a cnn have one linear layer.
        mean: Of a flow and a cnn: of every channel in [0, 1], or one for all: images are
            standardised with mean and std.
        std: Standard deviations that belong to the means.
        noise: Whether training images are dequantised with uniform noise; tests have none.
        contraction: How Lipschitz constants are kept.
        training: Length, optimizers and reporting.
    """

    images: ImagesConfig = field(
        default_factory=ImagesConfig,
        metadata=without_effect(
            test_draws="tests of classes take the middle of bins and draw no noise",
            importance_samples="tests of classes have no likelihood",
        ),
    )
    network: NetworkName = "flow"
    block: BlockOfClassifier = field(default="monotone", metadata=_IN_BOTH)
    scales: tuple[int, ...] = field(default=(1, 1), metadata=_OF_FLOWS)
    growth: int = field(default=16, metadata=_OF_FLOWS)
    depth: int = field(default=2, metadata=_OF_FLOWS)
    activation: str = field(default="cpila", metadata=_OF_FLOWS)
    widths: tuple[int, ...] = field(default=(64, 128, 256, 512), metadata=_OF_RESNETS)
    heads: HeadsConfig = field(default_factory=lambda: HeadsConfig(channels=64))
    mean: tuple[float, ...] = field(default=(0.317,), metadata=_STANDARDISED)
    std: tuple[float, ...] = field(default=(0.354,), metadata=_STANDARDISED)
    noise: bool = True
    contraction: ContractionConfig = field(
        default_factory=lambda: ContractionConfig(coeff=0.98, learn_concat_from=1),
        metadata=_OF_CONTRACTIONS,
    )
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            iterations=300,
            batch_size=64,
            optimizer=OptimizerConfig(
                learning_rate=3e-3,
                options={"betas": (0.9, 0.99)},
                schedule=ScheduleConfig(warmup=20),
            ),
            ema_decay=0.98,
            evaluate_every=50,
        )
    )

    def __post_init__(self) -> None:
        kinds = _BLOCKS[self.network]
        require(
            self.block in kinds,
            f"block: expected {' or '.join(kinds)} of network={self.network}, got {self.block}",
        )
        kind, memory = self.network, self.training.memory
        useful = memory == "stored" or kind == "flow"
        require(useful, f"memory: expected stored, a {kind} is no bijection, got {memory}")
        positive = bool(self.widths) and 0 < min(self.widths) <= max(self.widths) <= 8192
        require(positive, f"widths: expected integers from 1 to 8192, got {self.widths}")
        require_counts(self, "depth", most=64)
        require_counts(self, "growth", most=4096)
        positive = bool(self.scales) and min(self.scales) > 0
        require(positive, f"scales: expected positive integers, got {self.scales}")
        require(sum(self.scales) <= 1000, f"scales: expected at most 1000, got {self.scales}")
        require(
            bool(self.mean), "mean: expected a number for each channel or one for all, got none"
        )
        fits = len(self.std) == len(self.mean) and min(self.std) > 0
        count = len(self.mean)
        require(fits, f"std: expected a positive number for each of {count} means, got {self.std}")
