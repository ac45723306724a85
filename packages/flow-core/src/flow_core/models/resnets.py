"""Classifiers shaped like a ResNet-18 with contractive blocks: no flows, no heads on scales.

Source: Lu et al. 2021 (Implicit Normalizing Flows), §6.1 and released code.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Residual
from flow_core.combinators import Chain
from flow_core.maps import Activated, FeedForwardNet, LipschitzMap
from flow_core.models.assembly import Shape
from flow_core.settings import Settings, Solve

BlockOfResNet: TypeAlias = Literal["implicit", "residual", "plain"]
_STRIDE = 2


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A convolution, stages of one block each, and a linear layer on the mean over the image.

    Attributes:
        block: implicit: one implicit block of two maps. residual: two residual blocks. plain: two
            residual blocks of unbounded convolutions with batch normalisation.
        widths: Channels behind every stage, which are those inside its maps too. Every stage but
            the first ends with a halving of the image.
        classes: Number of classes.
        coeff: Bound on the spectral norm of every layer of a map, below 1; of plain blocks none.
        momentum: Weight of a batch in the running statistics of batch normalisations, which are
            what a model in evaluation mode normalises by.
    """

    block: BlockOfResNet = "implicit"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    classes: int = 10
    coeff: float = 0.99
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if self.block not in get_args(BlockOfResNet):
            names = ", ".join(get_args(BlockOfResNet))
            raise ValueError(f"block: expected one of {names}, got {self.block!r}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths: expected positive integers, got {self.widths}")
        if self.classes < 2:
            raise ValueError(f"classes: expected 2 or more, got {self.classes}")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum: expected in (0, 1], got {self.momentum}")


@final
class ContractiveResNet(nn.Module):
    """Logits of the classes of images in [0, 1].

    Contractive blocks are bijections that keep the shape; what is between them is not, so that
    there is no likelihood. No log-determinant is computed.

    Args:
        config: What it is made of.
        shape: `(channels, height, width)` of an image.
        solve: How blocks solve unless the settings of a call say otherwise; None for `Solve()`.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, *, using: Settings | None = None) -> Tensor:
            """Same as `forward`."""
            ...

    def __init__(self, config: ResNetConfig, shape: Shape, *, solve: Solve | None = None) -> None:
        super().__init__()
        first = config.widths[0]
        self.stem = _normalized(nn.Conv2d(shape[0], first, 3, padding=1, bias=False), config)
        self.stages = nn.ModuleList(_stages(config, (first, *shape[1:]), solve))
        self.logits = nn.Linear(config.widths[-1], config.classes)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], *, using: Settings | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Logits of images.

        Raises:
            SolverError: If a sample is not solved, see `Solve`.
        """
        features: Tensor = self.stem(x)
        for stage in self.stages:
            features = stage(features, using=using)
        logits: Tensor = self.logits(features.mean((-2, -1)))
        return logits

    @torch.no_grad()
    def initialize(self, x: Float[Tensor, "batch channels height width"]) -> None:
        """Begin the running statistics of batch normalisations at those of a batch of images."""
        with _taking_statistics(self):
            self(x)


@final
class PlainBlocks(nn.Module):
    """Two residual blocks without a bound: relu(x + b₁(x)), and x + b₂(x) of that."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Both blocks."""
        between = (x + self.first(x)).relu()
        output: Tensor = between + self.second(between)
        return output


@final
class Stage(nn.Module):
    """Blocks that keep the shape, and a transition to the next shape."""

    def __init__(self, blocks: Bijection | PlainBlocks, transition: nn.Module) -> None:
        super().__init__()
        self.blocks, self.transition = blocks, transition

    def forward(
        self, x: Float[Tensor, "batch channels height width"], *, using: Settings | None
    ) -> Float[Tensor, "batch outputs high wide"]:
        """Features of the stage."""
        blocks = self.blocks
        kept = blocks.transform(x, using=using) if isinstance(blocks, Bijection) else blocks(x)
        output: Tensor = self.transition(kept)
        return output


def _stages(config: ResNetConfig, shape: Shape, solve: Solve | None) -> Iterator[Stage]:
    for i, width in enumerate(config.widths):
        stride = 1 if i == 0 else _STRIDE
        blocks = _blocks(config, shape, width, solve)
        yield Stage(blocks, _transition(config, shape[0], width, stride))
        height, wide = (-(-side // stride) for side in shape[1:])
        shape = (width, height, wide)


def _blocks(
    config: ResNetConfig, shape: Shape, width: int, solve: Solve | None
) -> Bijection | PlainBlocks:
    if config.block == "plain":
        return PlainBlocks(*(_plain(config, shape[0], width) for _ in range(2)))
    first, second = (_contraction(config, shape, width) for _ in range(2))
    if config.block == "implicit":
        return Implicit(first, second, solve)
    return Chain([Residual(first, solve), Residual(second, solve)])


def _contraction(config: ResNetConfig, shape: Shape, width: int) -> LipschitzMap:
    """Two convolutions without biases, a rectifier behind each."""
    channels, *side = shape
    net = FeedForwardNet(
        channels,
        [width],
        activation="relu",
        coeff=config.coeff,
        kernels=(3, 3),
        map_size=(side[0], side[1]),
        bias=False,
    )
    return Activated(net, "relu")


def _plain(config: ResNetConfig, channels: int, width: int) -> nn.Module:
    """The same convolutions, with a batch normalisation behind each in place of a bound."""
    widening = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    narrowing = nn.Conv2d(width, channels, 3, padding=1, bias=False)
    return nn.Sequential(_normalized(widening, config), _normalized(narrowing, config))


def _transition(config: ResNetConfig, channels: int, width: int, stride: int) -> nn.Module:
    if stride == 1 and channels == width:
        return nn.Identity()
    return _normalized(nn.Conv2d(channels, width, 1, stride=stride, bias=False), config)


def _normalized(convolution: nn.Conv2d, config: ResNetConfig) -> nn.Module:
    norm = nn.BatchNorm2d(convolution.out_channels, momentum=config.momentum)
    return nn.Sequential(convolution, norm, nn.ReLU())


@contextmanager
def _taking_statistics(model: nn.Module) -> Generator[None, None, None]:
    """Running statistics become those of the batch that passes."""
    norms: Sequence[nn.BatchNorm2d] = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    try:
        yield
    finally:
        for norm, momentum, training in before:
            norm.momentum = momentum
            norm.train(training)
