"""Small image flows: convolutional Monotone Flows and i-DenseNets.

Source of the architecture: Chen et al. 2019 (Residual Flows), §4; Ahn et al. 2022 (Monotone Flows),
§5.3, at a size for one machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Monotone, Residual
from flow_core.combinators import Chain
from flow_core.distributions import Flow
from flow_core.layers import ActNorm, LogitTransform, Reshape, Squeeze
from flow_core.maps import DenseNet

from flow_apps.errors import ConfigError
from flow_apps.experiments.contraction import ContractionConfig
from flow_apps.experiments.image_sets import ImagesConfig
from flow_apps.experiments.integer_images import IntegerImageObjective
from flow_apps.training import TrainingConfig, require

Block = Literal["monotone", "residual"]


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
        contraction: How Lipschitz constants are kept.
        training: Length, optimizer and reporting.
    """

    images: ImagesConfig = field(default_factory=ImagesConfig)
    block: Block = "monotone"
    scales: tuple[int, ...] = (4, 4)
    growth: int = 32
    depth: int = 2
    activation: str = "cpila"
    dense_blocks: int = 2
    dense_growth: int = 32
    alpha: float = 0.05
    contraction: ContractionConfig = field(
        default_factory=lambda: ContractionConfig(coeff=0.98, learn_concat_from=1)
    )
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            iterations=400,
            batch_size=64,
            learning_rate=8e-3,
            betas=(0.9, 0.99),
            warmup=20,
            milestones=((0.7, 0.3), (0.88, 0.1)),
            gradient_clip=1.0,
            ema_decay=0.98,
        )
    )

    def __post_init__(self) -> None:
        for name in ("growth", "depth", "dense_growth"):
            value = getattr(self, name)
            require(value > 0, f"{name}: expected a positive integer, got {value}")
        dense = self.dense_blocks
        require(dense >= 0, f"dense_blocks: expected 0 or a positive integer, got {dense}")
        positive = bool(self.scales) and min(self.scales) > 0
        require(positive, f"scales: expected positive integers, got {self.scales}")
        require(0 <= self.alpha < 0.5, f"alpha: expected in [0, 0.5), got {self.alpha}")


def build_image_flow(config: ImageConfig, shape: tuple[int, int, int]) -> Flow:
    """The flow of a config for images of one shape.

    Raises:
        ConfigError: If the images cannot be halved that often.
    """
    c, h, w = shape
    halvings = len(config.scales) - 1
    if h % 2**halvings or w % 2**halvings:
        raise ConfigError(f"scales: images of {h}x{w} cannot be halved {halvings} times")
    layers = list(_layers(config, shape))
    return Flow(StandardNormal((c * h * w,)), Chain(layers), shape)


def _layers(config: ImageConfig, shape: tuple[int, int, int]) -> Iterator[Bijection]:
    c, h, w = shape
    yield LogitTransform(config.alpha)
    yield ActNorm(c)
    for scale, blocks in enumerate(config.scales):
        if scale:
            yield Squeeze(2)
            c, h, w = 4 * c, h // 2, w // 2
        for _ in range(blocks):
            yield _block(config, c, config.growth, (h, w))
            yield ActNorm(c)
    dims = c * h * w
    yield Reshape((c, h, w), (dims,))
    for _ in range(config.dense_blocks):
        yield _block(config, dims, config.dense_growth, None)
        yield ActNorm(dims)


def _block(
    config: ImageConfig, channels: int, growth: int, map_size: tuple[int, int] | None
) -> Bijection:
    contraction = config.contraction
    net = DenseNet(
        channels,
        growth=growth,
        depth=config.depth,
        activation=config.activation,
        coeff=contraction.coeff,
        concat_bound=contraction.concat_bound,
        map_size=map_size,
    )
    return (Monotone if config.block == "monotone" else Residual)(net, contraction.solve())


class ImageObjective(IntegerImageObjective):
    """Bits per dimension of a flow of contractive blocks."""

    def __init__(self, config: ImageConfig) -> None:
        flow = partial(build_image_flow, config)
        super().__init__(config.images, config.training, config.contraction, flow)
