"""Small image flows: convolutional Monotone Flows and i-DenseNets.

Source of the architecture: Chen et al. 2019 (Residual Flows), §4; Ahn et al. 2022 (Monotone Flows),
§5.3, at a size for one machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Monotone, Residual
from flow_core.combinators import Chain
from flow_core.dequantization import Dequantized, UniformDequantizer, bits_per_dim
from flow_core.distributions import Flow
from flow_core.initialization import initialize
from flow_core.layers import ActNorm, LogitTransform, Reshape, Squeeze
from flow_core.maps import DenseNet
from flow_data import (
    ImageSet,
    ImageSplits,
    batch_indices,
    digits_splits,
    in_order,
    load_digits,
    load_fashion_mnist,
    load_mnist,
    split_images,
)
from jaxtyping import Float
from torch import Tensor

from flow_apps.errors import ConfigError
from flow_apps.experiments.contraction import ContractionConfig, require_spread
from flow_apps.experiments.density import DensityObjective
from flow_apps.figures.images import draw_images
from flow_apps.training import Batch, TrainingConfig, require
from flow_apps.training.randomness import derive_seed

Block = Literal["monotone", "residual"]

_PICTURES = 36
_VALIDATION_IMAGES = 5000


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """A set of images and a flow of scales, each twice as coarse as the one before.

    Attributes:
        data: Name of the set.
        data_root: The folder that torchvision calls root; the digits need none.
        block: Kind of the blocks: i-DenseNets are residual.
        scales: Convolutional blocks of every scale.
        growth: Channels that every dense layer adds.
        depth: Dense layers in a block.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        dense_blocks: Blocks on the flattened image at the end.
        dense_growth: Features that their dense layers add.
        alpha: Of the logit transform.
        validation_size: At most that many images, the first, tell during training how good it is.
        test_size: At most that many test images, the first, are tested in the end.
        test_draws: Draws of the dequantisation noise in the final test.
        test_batch_size: Images at a time in tests.
        contraction: How Lipschitz constants are kept.
        training: Length, optimizer and reporting.
    """

    data: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    data_root: str = "data"
    block: Block = "monotone"
    scales: tuple[int, ...] = (4, 4)
    growth: int = 32
    depth: int = 2
    activation: str = "cpila"
    dense_blocks: int = 2
    dense_growth: int = 32
    alpha: float = 0.05
    validation_size: int = 500
    test_size: int = 10_000
    test_draws: int = 20
    test_batch_size: int = 200
    contraction: ContractionConfig = field(
        default_factory=lambda: ContractionConfig(coeff=0.98, learn_concat_from=1)
    )
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            iterations=600, batch_size=64, betas=(0.9, 0.99), gradient_clip=1.0, ema_decay=0.98
        )
    )

    def __post_init__(self) -> None:
        sizes = ("validation_size", "test_size", "test_draws", "test_batch_size")
        for name in ("growth", "depth", "dense_growth", *sizes):
            value = getattr(self, name)
            require(value > 0, f"{name}: expected a positive integer, got {value}")
        require_spread(self.test_size)
        dense = self.dense_blocks
        require(dense >= 0, f"dense_blocks: expected 0 or a positive integer, got {dense}")
        positive = bool(self.scales) and min(self.scales) > 0
        require(positive, f"scales: expected positive integers, got {self.scales}")
        require(0 <= self.alpha < 0.5, f"alpha: expected in [0, 0.5), got {self.alpha}")


def load_images(config: ImageConfig) -> ImageSplits:
    """The parts of the set of images.

    Raises:
        DataError: If the files are not there or not what they should be.
    """
    if config.data == "digits":
        return digits_splits(load_digits())
    load = load_mnist if config.data == "mnist" else load_fashion_mnist
    parts = split_images(load(config.data_root), validation=_VALIDATION_IMAGES, test=0, seed=0)
    test = load(config.data_root, train=False)
    return ImageSplits(parts.train, parts.validation, test)


def build_image_flow(config: ImageConfig, shape: tuple[int, int, int]) -> Flow:
    """The flow of a config for images of one shape, initialised from the seed alone.

    Raises:
        ConfigError: If the images cannot be halved that often.
    """
    c, h, w = shape
    halvings = len(config.scales) - 1
    if h % 2**halvings or w % 2**halvings:
        raise ConfigError(f"scales: images of {h}x{w} cannot be halved {halvings} times")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
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


class ImageObjective(DensityObjective):
    """Bits per dimension of integer images under uniform dequantisation."""

    splits = ("validation",)
    selection = ("validation", "bits_per_dim")
    unit = "bits_per_dim"
    net: Dequantized

    def __init__(self, config: ImageConfig) -> None:
        super().__init__(config.contraction)
        self.config = config
        self.images = load_images(config)
        train = self.images.train
        self.net = Dequantized(
            build_image_flow(config, train.shape), UniformDequantizer(), train.levels
        )
        self.test_draws = config.test_draws

    @property
    def model(self) -> Dequantized:
        """The distribution of integer images."""
        return self.net

    @property
    def flow(self) -> Flow:
        """The flow of real images in [0, 1)."""
        return self.net.flow

    def initialize(self, batch: Batch) -> None:
        """Standardise the input of every block."""
        initialize(self.net, batch[0])

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean bits per dimension."""
        bits = self.merit(self.net(batch[0])).mean()
        return bits, {"bits_per_dim": bits.detach()}

    def batch(self, step: int) -> Batch:
        """Images in an order that follows from seed and step."""
        training, train = self.config.training, self.images.train
        order = batch_indices(len(train), training.batch_size, step - 1, seed=training.seed)
        return (train.images[order],)

    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Mean bits per dimension from one draw of the noise."""
        return {self.unit: float(self.merit(self.log_likelihoods(split, 1)).mean())}

    def log_likelihoods(self, split: str, draws: int) -> Float[Tensor, " count"]:
        """Mean over draws of the bound of the log-likelihood of every image."""
        batches = in_order(self._part(split), self.config.test_batch_size)
        return torch.cat([self._mean_bound(images.to(self._device()), draws) for images in batches])

    def merit(self, log_likelihood: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
        """Bits per dimension."""
        return bits_per_dim(log_likelihood, self.flow.event_shape)

    def test_points(self, count: int) -> Float[Tensor, " count *event"]:
        """Test images in the middle of their bins, in [0, 1)."""
        images = self.images.test.images[: min(count, self.config.test_batch_size)]
        return (images.to(self._device(), torch.get_default_dtype()) + 0.5) / self.net.levels

    def figures(self, folder: Path, step: int) -> None:
        """Samples, and real images above their reconstructions."""
        self.draw_samples(self.sample(_PICTURES), folder / f"samples_{step:06d}.png")
        x = self.test_points(_PICTURES // 2)
        again = self.flow.bijection.inverse(self.flow.bijection.transform(x))
        self.draw_samples(torch.cat([x, again]), folder / f"reconstructions_{step:06d}.png")

    def draw_samples(self, samples: Tensor, path: Path) -> None:
        """A sheet of images."""
        draw_images(samples, path)

    def _mean_bound(self, images: Tensor, draws: int) -> Tensor:
        return torch.stack([self.net.log_prob_bound(images) for _ in range(draws)]).mean(0)

    def _part(self, split: str) -> ImageSet:
        parts = {
            "train": (self.images.train, len(self.images.train)),
            "validation": (self.images.validation, self.config.validation_size),
            "test": (self.images.test, self.config.test_size),
        }
        images, limit = parts[split]
        return images.select(torch.arange(min(limit, len(images))))

    def _device(self) -> torch.device:
        return next(self.net.parameters()).device
