"""A set of images and a flow of invertible convolutions and couplings."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flow_apps.config import TrainingConfig, only_with, require, require_counts
from flow_apps.config.dequantization import NoiseConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.neighbours import OtherThan, any_of

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
]
MixingName: TypeAlias = Literal[
    "none", "conv1x1", "lu", "orthogonal", "householder", "reverse", "shuffle"
]
ElementwiseName: TypeAlias = Literal[
    "none", "slr", "leaky", "learnable-leaky", "smooth-tanh", "spline", "selu"
]
CouplingName: TypeAlias = Literal["affine", "sigmoid", "half-range", "additive", "none"]
MacowScaleName: TypeAlias = Literal["bounded-exp", "sigmoid", "half-range"]
MacowFormName: TypeAlias = Literal["plain", "released"]
ReconstructionName: TypeAlias = Literal["plain", "symmetric", "inverse_only"]

_WITH_TAPS = ("inverse-conv", "inverse-flow-unit", "fincflow", "cincflow", "emerging")
_OF_VECTORS = ("self-normalizing", "exact", "conv1x1")
_WITH_KERNELS = (*_WITH_TAPS, "self-normalizing", "exact", "exponential")

_GLOW = ("architecture", ("glow",))
_IMAGES = ("architecture", ("glow", "cnn"))
_MACOW = only_with(_IMAGES, ("linear", ("macow",)))
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
        mixing: How a step of a glow mixes channels before its coupling.
        coupling: Scale function of the couplings; additive ones have none.
        coupling_width: Channels inside the networks of couplings and split priors.
        macow_width: Channels inside masked convolutions, as a multiple of theirs.
        macow_scale: Scale function of masked convolutions; sigmoid is that of MaCow.
        macow_form: released: MaCow's unit with its two ActNorms; plain: without them.
        split_prior: Whether half of the channels leave after every block of a glow but the last.
        activation: Between linear layers; none for a glow that has couplings only.
        n_bins: Bins of spline activations.
        tail_bound: Spline activations are linear beyond.
        individual: Whether every value of an image has a spline of its own.
        tap_bound: Bound on the taps of inverse convolutions, or none.
        exponential_coeff: Bound on the spectral norm of the exponent of exponential convolutions.
        alpha: Of the logit transform.
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
    actnorm_bound: float | None = field(
        default=None, metadata=only_with(_GLOW, ("actnorm", (True,)))
    )
    mixing: MixingName = field(default="none", metadata=only_with(_GLOW))
    coupling: CouplingName = field(default="affine", metadata=only_with(_GLOW))
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
    alpha: float = 1e-6

    def __post_init__(self) -> None:
        require_counts(self, "num_blocks", "block_size", most=1024)
        if self.architecture == "fully-connected":
            names, fits = " or ".join(_OF_VECTORS), self.linear in _OF_VECTORS
            require(fits, f"linear: expected {names} for vectors, got {self.linear}")
        if self.linear not in _WITH_TAPS:
            names, bound = ", ".join(_WITH_TAPS), self.tap_bound
            require(bound is None, f"tap_bound: expected none, only {names} have taps, got {bound}")


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
        verbose: Whether evaluations log what every layer does to validation images.
        timing: Whether the summary tells how long a forward pass, a training pass and samples take.
        training: Length, optimizers and reporting.
    """

    images: ImagesConfig = field(default_factory=lambda: ImagesConfig(data="mnist"))
    flow: LayersConfig = field(default_factory=LayersConfig)
    dequantizer: NoiseConfig = field(default_factory=NoiseConfig)
    self_norm: SelfNormConfig = field(default_factory=SelfNormConfig)
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
