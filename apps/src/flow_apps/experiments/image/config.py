"""A set of images and a flow of contractive blocks."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flow_apps.config import (
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    require,
    require_counts,
)
from flow_apps.config.classification import HybridConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.dequantization import NoiseConfig
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.neighbours import OtherThan, any_of, only_with

BlockOfImages: TypeAlias = Literal["monotone", "residual", "implicit", "coupling"]
NetOfImages: TypeAlias = Literal["dense", "feedforward"]
ScaleOfCoupling: TypeAlias = Literal["sigmoid", "upper-half-sigmoid", "upper-half-of-channels"]
OrderOfCoupling: TypeAlias = Literal["in-turns", "checkerboards-first"]
ActivationOfCoupling: TypeAlias = Literal["relu", "elu"]
PaddingNoise: TypeAlias = Literal["uniform", "normal"]

_CONTRACTIVE = ("monotone", "residual", "implicit")
_BLOCKS = ("block", _CONTRACTIVE)
_COUPLINGS = only_with(("block", ("coupling",)))
_DENSE, _FEEDFORWARD = ("net", ("dense",)), ("net", ("feedforward",))
_WIDE = any_of(_FEEDFORWARD, ("block", ("coupling",)))
_FLATTENED = ("dense_blocks", OtherThan(0))
_SOMEWHERE = any_of(_BLOCKS, ("dequantizer.block", _CONTRACTIVE))


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """A set of images and a flow of scales, each twice as coarse as the one before.

    Attributes:
        images: Which images.
        task: density: their likelihood. hybrid: that and their classes, by heads on every scale.
        block: Kind of the blocks: i-DenseNets and Residual Flows are residual; implicit ones have
            two maps each. Couplings, of checkerboards and of channels in turns, solve nothing.
        scales: Convolutional blocks of every scale.
        net: Kind of the maps of blocks: dense nets, or feedforward ones as in Residual Flows, with
            an activation in front of all but the first.
        growth: Channels that every dense layer adds.
        width: Channels of hidden layers of feedforward nets, and inside couplings.
        kernels: Kernel sizes of feedforward nets, one more than their depth.
        depth: Hidden layers of a block.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        dropout: Share of the channels that the last layer of a feedforward net does not get in
            training; one choice for all images of a pass.
        actnorm: Whether there are ActNorms, one in front and one behind every block.
        dense_blocks: Blocks on the flattened image at the end.
        dense_growth: Features that their dense layers add.
        dense_width: Features of their hidden layers, of feedforward nets and couplings.
        dense_entrance: Features that a linear layer makes of the image for dense layers; or none.
        alpha: Of the logit transform.
        mean: Of every channel in [0, 1], or one for all: images are standardised with mean and std,
            as published for hybrid flows; none for the logit transform.
        std: Standard deviations that belong to the means.
        coupling_scale: Scale function of couplings: σ(r + 2); ½·σ(r + 2) + ½, with which inverses
            stretch by less than two each; or the latter for halves of channels only, as published
            for the attack on inverses.
        coupling_order: Checkerboards and halves of the channels take turns on every scale, or the
            first scale has the checkerboards.
        coupling_activation: Inside of couplings.
        squeeze_first: Whether the first scale works on halved images already.
        factor_out: Whether half of the channels leave after every scale but the last.
        padding: Channels of noise beside those of the images, that the flow models too.
        padding_noise: Their distribution: uniform in the first bin, or normal around the middle.
        dequantizer: The noise that makes real numbers of pixels.
        contraction: How Lipschitz constants are kept.
        estimator: How log-determinants are had.
        hybrid: Of the task hybrid: heads, and what the likelihood counts beside them.
        training: Length, optimizers and reporting.
    """

    images: ImagesConfig = field(default_factory=ImagesConfig)
    task: Literal["density", "hybrid"] = "density"
    block: BlockOfImages = "monotone"
    scales: tuple[int, ...] = (4, 4)
    net: NetOfImages = field(default="dense", metadata=only_with(_BLOCKS))
    growth: int = field(default=32, metadata=only_with(_BLOCKS, _DENSE))
    width: int = field(default=512, metadata=only_with(_WIDE))
    kernels: tuple[int, ...] = field(default=(3, 1, 3), metadata=only_with(_BLOCKS, _FEEDFORWARD))
    depth: int = field(default=2, metadata=only_with(_BLOCKS))
    activation: str = field(default="cpila", metadata=only_with(_BLOCKS))
    dropout: float = field(default=0.0, metadata=only_with(_BLOCKS, _FEEDFORWARD, otherwise=0.0))
    actnorm: bool = True
    dense_blocks: int = 2
    dense_growth: int = field(default=32, metadata=only_with(_BLOCKS, _DENSE, _FLATTENED))
    dense_width: int = field(default=128, metadata=only_with(_WIDE, _FLATTENED))
    dense_entrance: int | None = field(
        default=None, metadata=only_with(_BLOCKS, _DENSE, _FLATTENED, otherwise=None)
    )
    alpha: float = field(default=0.05, metadata=only_with(("mean", ([],))))
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    coupling_scale: ScaleOfCoupling = field(default="sigmoid", metadata=_COUPLINGS)
    coupling_order: OrderOfCoupling = field(default="in-turns", metadata=_COUPLINGS)
    coupling_activation: ActivationOfCoupling = field(default="relu", metadata=_COUPLINGS)
    squeeze_first: bool = False
    factor_out: bool = False
    padding: int = 0
    padding_noise: PaddingNoise = field(
        default="uniform", metadata=only_with(("padding", OtherThan(0)))
    )
    dequantizer: NoiseConfig = field(default_factory=NoiseConfig)
    contraction: ContractionConfig = field(
        default_factory=lambda: ContractionConfig(coeff=0.98, learn_concat_from=1),
        metadata=only_with(_SOMEWHERE),
    )
    estimator: EstimatorConfig = field(
        default_factory=EstimatorConfig, metadata=only_with(_SOMEWHERE)
    )
    hybrid: HybridConfig = field(default_factory=HybridConfig)
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
        require_counts(self, "growth", "dense_growth", "width", "dense_width", most=8192)
        if self.dense_entrance is not None:
            require_counts(self, "dense_entrance", most=8192)
        feedforward, sizes = self.net == "feedforward", self.kernels
        require(
            not feedforward or len(sizes) == self.depth + 1,
            f"kernels: expected depth + 1 = {self.depth + 1} sizes, got {sizes}",
        )
        odd = all(size > 0 and size % 2 for size in sizes)
        require(odd, f"kernels: expected odd positive sizes, got {sizes}")
        require(0 <= self.dropout < 1, f"dropout: expected in [0, 1), got {self.dropout}")
        kind = self.net
        require(feedforward or not self.dropout, f"dropout: expected 0, {kind} nets have none")
        entered = self.dense_entrance is not None and feedforward
        require(not entered, "dense_entrance: expected none, feedforward nets have no entrance")
        require_counts(self, "dense_blocks", least=0, most=1000)
        require_counts(self, "padding", least=0, most=4096)
        positive = bool(self.scales) and min(self.scales) > 0
        require(positive, f"scales: expected positive integers, got {self.scales}")
        require(sum(self.scales) <= 1000, f"scales: expected at most 1000, got {self.scales}")
        require(0 <= self.alpha < 0.5, f"alpha: expected in [0, 0.5), got {self.alpha}")
        count = len(self.mean)
        fits = len(self.std) == count and min(self.std, default=1.0) > 0
        require(fits, f"std: expected a positive number for each of {count} means, got {self.std}")
        unused = self.task == "density" and self.hybrid != HybridConfig()
        require(not unused, "hybrid: expected task=hybrid, got task=density, which has no classes")
