"""A set of images and a flow of invertible convolutions and couplings."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flow_apps.config import TrainingConfig, only_with, require, require_counts
from flow_apps.config.dequantization import NoiseConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.neighbours import OtherThan, any_of, without_effect
from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.config.stability import StabilityConfig

ArchitectureName: TypeAlias = Literal["glow", "cnn", "fully-connected"]
LinearName: TypeAlias = Literal[
    "inverse-conv",
    "inverse-flow-unit",
    "fincflow",
    "cincflow",
    "self-normalizing",
    "exact",
    "conv1x1",
    "emerging",
    "exponential",
    "macow",
    "none",
]
MixingName: TypeAlias = Literal[
    "none", "conv1x1", "lu", "orthogonal", "householder", "reverse", "shuffle"
]
ElementwiseName: TypeAlias = Literal[
    "none", "slr", "leaky", "learnable-leaky", "smooth-tanh", "spline", "selu"
]
CouplingName: TypeAlias = Literal["affine", "sigmoid", "half-range", "additive", "none"]
CouplingNetName: TypeAlias = Literal["plain", "normed", "spectral"]
SplitNetName: TypeAlias = Literal["hidden", "linear"]
MacowScaleName: TypeAlias = Literal["bounded-exp", "sigmoid", "half-range"]
MacowFormName: TypeAlias = Literal["plain", "released"]
ReconstructionName: TypeAlias = Literal["plain", "symmetric", "inverse_only"]

_WITH_TAPS = ("inverse-conv", "inverse-flow-unit", "fincflow", "cincflow", "emerging")
_OF_VECTORS = ("self-normalizing", "exact", "conv1x1")
_WITH_KERNELS = (*_WITH_TAPS, "self-normalizing", "exact", "exponential")

_GLOW = ("architecture", ("glow",))
_IMAGES = ("architecture", ("glow", "cnn"))
_MACOW = only_with(_IMAGES, ("linear", ("macow",)))
_ACTNORM = only_with(_GLOW, ("actnorm", (True,)))
_COUPLING = only_with(_GLOW, ("coupling", OtherThan("none")))
_AFFINE = only_with(_GLOW, ("coupling", ("affine",)))
_WITH_EPS = ("sigmoid", "half-range")
_SPLIT = only_with(_GLOW, ("split_prior", (True,)))
_SPLINE = only_with(("activation", ("spline",)))
_SELF_NORMALIZING = ("flow.linear", ("self-normalizing",))
_SURROGATE = only_with(_SELF_NORMALIZING, ("surrogate", (True,)))
_GECO = only_with(("geco_rate", OtherThan(None)))


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """What the flow is made of: the fields of `flow_core.FlowConfig`, which says more about them.

    Attributes:
        architecture: glow: blocks of a squeeze and steps of [ActNorm, linear, activation, mixing,
            coupling]. cnn: blocks of linear layers with activations between. fully-connected:
            linear layers on the flattened image, activations between.
        linear: The linear layer of every step.
        kernel_size: Side of its kernel.
        num_blocks: Blocks; every one of a glow halves the image.
        block_size: Steps of a block.
        actnorm: Whether steps of a glow begin with an ActNorm.
        actnorm_bound: Largest log-scale of an ActNorm in nats, or none for any.
        actnorm_eps: What is added to its scales.
        actnorm_std: Standard deviation that channels of the first batch leave it with.
        mixing: How a step of a glow mixes channels before its coupling.
        coupling: Scale function of the couplings; additive ones have none.
        coupling_shift: Of a sigmoid scale σ(r + shift) + ε.
        coupling_eps: ε of a sigmoid or half-range scale; none for 0 and ½.
        coupling_bound: c of an affine scale e^(c·tanh(a·r/c)), in nats.
        coupling_slope: a of it.
        coupling_net: Inside of couplings, plain, normed: with ActNorms, or spectral: three 3x3
            convolutions of bounded spectral norm.
        coupling_coeff: That bound, below 1.
        coupling_width: Channels inside the networks of couplings and split priors.
        macow_width: Channels inside masked convolutions, as a multiple of theirs.
        macow_scale: Scale function of masked convolutions; sigmoid is that of MaCow.
        macow_form: released: MaCow's unit with its two ActNorms; plain: without them.
        split_prior: Whether half of the channels leave after every block of a glow but the last.
        split_net: Of a split prior: two convolutions, or one as of Glow.
        split_bound: Its largest log-scale in nats, or none for any, as of Glow.
        learn_top: Whether mean and scale of every channel of the last block's output are learned.
        classes: How many classes of images choose them; none for one of all images.
        activation: Between linear layers; none for a glow that has couplings only.
        n_bins: Bins of spline activations.
        tail_bound: Spline activations are linear beyond.
        individual: Whether every value of an image has a spline of its own.
        tap_bound: Bound on the taps of inverse convolutions, or none.
        exponential_coeff: Bound on the spectral norm of the exponent of exponential convolutions.
        alpha: Of the logit transform.
        mean: Of every channel in [0, 1], or one for all: images are standardised with mean and std;
            none for the logit.
        std: Standard deviations that belong to the means.
    """

    architecture: ArchitectureName = "glow"
    linear: LinearName = field(
        default="inverse-conv",
        metadata=only_with(("architecture", ("glow", "cnn")), otherwise="exact"),
    )
    kernel_size: int = field(default=3, metadata=only_with(_IMAGES, ("linear", _WITH_KERNELS)))
    num_blocks: int = 2
    block_size: int = 4
    actnorm: bool = field(default=True, metadata=only_with(_GLOW))
    actnorm_bound: float | None = field(default=None, metadata=_ACTNORM)
    actnorm_eps: float = field(default=0.0, metadata=_ACTNORM)
    actnorm_std: float = field(default=1.0, metadata=_ACTNORM)
    mixing: MixingName = field(default="none", metadata=only_with(_GLOW))
    coupling: CouplingName = field(default="affine", metadata=only_with(_GLOW))
    coupling_shift: float = field(
        default=2.0, metadata=only_with(_GLOW, ("coupling", ("sigmoid",)))
    )
    coupling_eps: float | None = field(
        default=None, metadata=only_with(_GLOW, ("coupling", _WITH_EPS), otherwise=None)
    )
    coupling_bound: float = field(default=2.0, metadata=_AFFINE)
    coupling_slope: float = field(default=1.0, metadata=_AFFINE)
    coupling_net: CouplingNetName = field(default="plain", metadata=_COUPLING)
    coupling_coeff: float = field(
        default=0.98, metadata=only_with(_GLOW, ("coupling_net", ("spectral",)))
    )
    coupling_width: int = field(
        default=512,
        metadata=only_with(
            _GLOW, any_of(("coupling", OtherThan("none")), ("split_prior", (True,)))
        ),
    )
    macow_width: int = field(default=4, metadata=_MACOW)
    macow_scale: MacowScaleName = field(default="bounded-exp", metadata=_MACOW)
    macow_form: MacowFormName = field(default="plain", metadata=_MACOW)
    split_prior: bool = field(default=True, metadata=only_with(_GLOW))
    split_net: SplitNetName = field(default="hidden", metadata=_SPLIT)
    split_bound: float | None = field(default=4.0, metadata=_SPLIT)
    learn_top: bool = field(default=False, metadata=only_with(_GLOW, otherwise=False))
    classes: int | None = field(
        default=None, metadata=only_with(("learn_top", (True,)), otherwise=None)
    )
    activation: ElementwiseName = "none"
    n_bins: int = field(default=5, metadata=_SPLINE)
    tail_bound: float = field(default=10.0, metadata=_SPLINE)
    individual: bool = field(default=False, metadata=_SPLINE)
    tap_bound: float | None = field(
        default=None, metadata=only_with(("linear", _WITH_TAPS), otherwise=None)
    )
    exponential_coeff: float = field(
        default=0.9, metadata=only_with(_IMAGES, ("linear", ("exponential",)))
    )
    alpha: float = field(default=1e-6, metadata=only_with(("mean", ([],))))
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require_counts(self, "num_blocks", "block_size", most=1024)
        if self.architecture == "fully-connected":
            names, fits = " or ".join(_OF_VECTORS), self.linear in _OF_VECTORS
            require(fits, f"linear: expected {names} for vectors, got {self.linear}")
        if self.linear not in _WITH_TAPS:
            names, bound = ", ".join(_WITH_TAPS), self.tap_bound
            require(bound is None, f"tap_bound: expected none, only {names} have taps, got {bound}")
        if self.classes is not None:
            require_counts(self, "classes", least=2, most=100_000)


@dataclass(frozen=True, kw_only=True)
class SelfNormConfig:
    """How self-normalizing layers are trained; without meaning for other flows.

    Attributes:
        surrogate: Whether on gradients without determinants, else on the exact ones.
        reconstruction: Whose error keeps the approximate inverses close, see `TrainingSurrogate`.
        reconstruction_weight: λ, the weight of that error; 0 for none.
        geco_rate: How quickly weights follow errors, see `Geco`; none for a constant weight.
        geco_tolerance: Squared error of an image, per layer, at which weights stay as they are.
        geco_memory: Decay of the moving average of the errors.
        approximate_samples: Whether samples by approximate inverses are drawn beside exact ones.
    """

    surrogate: bool = field(default=True, metadata=only_with(_SELF_NORMALIZING))
    reconstruction: ReconstructionName = field(default="plain", metadata=_SURROGATE)
    reconstruction_weight: float = field(default=1.0, metadata=_SURROGATE)
    geco_rate: float | None = field(
        default=None,
        metadata=only_with(
            ("surrogate", (True,)), ("flow.linear", ("self-normalizing",)), otherwise=None
        ),
    )
    geco_tolerance: float = field(default=1e-3, metadata=_GECO)
    geco_memory: float = field(default=0.9, metadata=_GECO)
    approximate_samples: bool = field(default=False, metadata=_SURROGATE)

    def __post_init__(self) -> None:
        weight, rate = self.reconstruction_weight, self.geco_rate
        require(weight >= 0, f"reconstruction_weight: expected 0 or more, got {weight}")
        grows = rate is None or (rate > 0 and weight > 0)
        require(grows, f"geco_rate: expected positive, with a positive weight, got {rate}")
        useful = rate is None or self.surrogate
        require(useful, "geco_rate: expected none, without a surrogate there is no weight")


@dataclass(frozen=True, kw_only=True)
class GlowConfig:
    """Images and a flow of them.

    Attributes:
        images: Which images.
        flow: What the flow is made of.
        dequantizer: The noise that makes real numbers of pixels.
        self_norm: How self-normalizing layers are trained.
        y_weight: Of the cross-entropy in nats of a linear layer that tells the classes of images,
            beside bits per dimension given the class.
        regularizers: Penalties on the conditioning, beside nats an image.
        stability: How it is measured, if it is.
        verbose: Whether evaluations log what every layer does to validation images.
        timing: Whether the summary tells how long a forward pass, a training pass and samples take.
        training: Length, optimizers and reporting.
    """

    images: ImagesConfig = field(default_factory=lambda: ImagesConfig(data="mnist"))
    flow: LayersConfig = field(default_factory=LayersConfig)
    dequantizer: NoiseConfig = field(default_factory=NoiseConfig)
    self_norm: SelfNormConfig = field(default_factory=SelfNormConfig)
    y_weight: float = field(default=0.01, metadata=only_with(("flow.classes", OtherThan(None))))
    regularizers: RegularizersConfig = field(
        default_factory=RegularizersConfig,
        metadata=without_effect(density="the loss is the negative log-density itself"),
    )
    stability: StabilityConfig = field(default_factory=lambda: StabilityConfig(every=0))
    verbose: bool = False
    timing: bool = False
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(iterations=1000, batch_size=100)
    )

    def __post_init__(self) -> None:
        # Layers of one class share their code, which Dynamo compiles for a few of them only.
        compiled = self.training.compile
        require(not compiled, "compile: expected false, it is of no use for these models")
        useless = self.self_norm.geco_rate is not None and self.flow.linear != "self-normalizing"
        require(not useless, "geco_rate: expected none, without a surrogate there is no weight")
        require(self.y_weight >= 0, f"y_weight: expected 0 or more, got {self.y_weight}")
        of_density = self.regularizers.density == 0
        require(of_density, "density: expected 0, the loss is the negative log-density itself")
        surrogate = self.flow.linear == "self-normalizing" and self.self_norm.surrogate
        alone = not surrogate or (self.flow.classes is None and not self.regularizers.any)
        require(alone, "surrogate: expected false, with classes or penalties gradients are exact")
        self.stability.require_multiple_of(self.training.evaluate_every)
