"""What an image flow, and the noise of integer images, are made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from flow_core.layers.convolutions.masked import MacowForm
from flow_core.lipschitz.activations.registry import known_name

Architecture: TypeAlias = Literal["glow", "cnn", "fully-connected"]
Linear: TypeAlias = Literal[
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
Mixing: TypeAlias = Literal[
    "none", "conv1x1", "lu", "orthogonal", "householder", "reverse", "shuffle"
]
ActivationName: TypeAlias = Literal[
    "none", "slr", "leaky", "learnable-leaky", "smooth-tanh", "spline", "selu"
]
ScaleName: TypeAlias = Literal["bounded-exp", "sigmoid", "half-range"]
CouplingNet: TypeAlias = Literal["plain", "normed", "spectral"]
SplitNet: TypeAlias = Literal["hidden", "linear"]
CouplingKind: TypeAlias = Literal["affine", "sigmoid", "half-range", "additive", "none"]
Block: TypeAlias = Literal["monotone", "residual", "implicit", "coupling"]
BlockOfNoise: TypeAlias = Literal["monotone", "residual", "coupling"]
Net: TypeAlias = Literal["dense", "feedforward"]
Noise: TypeAlias = Literal["uniform", "variational"]
ScaleOfCouplings: TypeAlias = Literal["sigmoid", "upper-half-sigmoid", "upper-half-of-channels"]
OrderOfCouplings: TypeAlias = Literal["in-turns", "checkerboards-first"]
ActivationOfCouplings: TypeAlias = Literal["relu", "elu"]


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """A flow of images in [0, 1]: a logit, or a standardisation, then layers.

    Sizes follow from the image. What Behrmann et al. 2021 train is said by these options too: their
    naffine is half-range, their gaffine affine with bound and slope log M.

    Attributes:
        architecture: glow: blocks of a squeeze and steps of [ActNorm, linear, activation, mixing,
            coupling]. cnn: blocks of linear layers with activations between, and squeezes between
            blocks. fully-connected: linear layers on the flattened image, activations between.
        linear: The linear layer of every step. emerging, exponential and macow begin with a 1x1
            convolution, as their papers have it; none is for a glow whose mixing is enough.
        kernel_size: Side of its kernel.
        num_blocks: Blocks; every one of a glow halves the image.
        block_size: Steps of a block.
        actnorm: Whether steps of a glow begin with an ActNorm.
        actnorm_bound: Largest log-scale of an ActNorm in nats, or None for any.
        actnorm_eps: What is added to its scales.
        actnorm_std: Standard deviation that channels of the first batch leave it with.
        mixing: How a step of a glow mixes channels before its coupling.
        coupling: Scale function of the couplings: affine is bounded-exp, c·tanh(a·r/c) in nats;
            sigmoid is Glow's σ(r + shift) + ε; half-range, 1 + (1 − ε)·(2σ(r) − 1), lies around
            one; additive couplings have none.
        coupling_shift: Of a sigmoid scale.
        coupling_eps: ε: what is added to a sigmoid scale, or the smallest half-range one; None for
            0 and ½.
        coupling_bound: c of an affine scale, in nats.
        coupling_slope: a of an affine scale.
        coupling_net: Convolutions of 3x3, 1x1 and 3x3, the last one zero at first. plain: with
            biases; normed: Glow's, with ActNorms in place of two of them. spectral: three of 3x3
            with a bounded spectral norm.
        coupling_coeff: That bound, below 1.
        coupling_width: Channels inside the networks of couplings and split priors.
        macow_width: Channels inside masked convolutions, as a multiple of theirs.
        macow_scale: Scale function of masked convolutions; that of MaCow is sigmoid, with which
            samples can overflow.
        macow_form: released: MaCow's unit with its two ActNorms and x·s + t; plain: without them,
            and (x + t)·s.
        split_prior: Whether half of the channels leave after every block of a glow but the last.
        split_net: hidden: split priors have two convolutions; linear: Glow's have one, zero at
            first.
        split_bound: Largest log-scale of a split prior in nats, or None for any, as Glow has it.
        learn_top: Whether mean and scale of every channel of what the last block of a glow leaves
            are learned.
        classes: Of images whose class chooses that mean and scale, see `ChannelNormal`; None for
            one of all images. A landmark named latent then ends the flow.
        activation: Between linear layers; none for a glow that has couplings only. selu is not
            onto the real line: its flow has a mass below one, and samples out of reach are NaN.
        n_bins: Bins of spline activations.
        tail_bound: Spline activations are linear beyond.
        individual: Whether every value of an image has a spline of its own.
        tap_bound: Bound on the taps of inverse convolutions, see `InverseConv2d`, or None; for
            inverse-conv, inverse-flow-unit, fincflow, cincflow and emerging.
        exponential_coeff: Bound on the spectral norm of the exponent of exponential convolutions.
        alpha: Of the logit transform.
        mean: Of every channel, or one for all: the flow begins by standardising with mean and std;
            none for the logit.
        std: Standard deviations that belong to the means.
    """

    architecture: Architecture = "glow"
    linear: Linear = "inverse-conv"
    kernel_size: int = 3
    num_blocks: int = 2
    block_size: int = 4
    actnorm: bool = True
    actnorm_bound: float | None = None
    actnorm_eps: float = 0.0
    actnorm_std: float = 1.0
    mixing: Mixing = "none"
    coupling: CouplingKind = "affine"
    coupling_shift: float = 2.0
    coupling_eps: float | None = None
    coupling_bound: float = 2.0
    coupling_slope: float = 1.0
    coupling_net: CouplingNet = "plain"
    coupling_coeff: float = 0.98
    coupling_width: int = 512
    macow_width: int = 4
    macow_scale: ScaleName = "bounded-exp"
    macow_form: MacowForm = "plain"
    split_prior: bool = True
    split_net: SplitNet = "hidden"
    split_bound: float | None = 4.0
    learn_top: bool = False
    classes: int | None = None
    activation: ActivationName = "none"
    n_bins: int = 5
    tail_bound: float = 10.0
    individual: bool = False
    tap_bound: float | None = None
    exponential_coeff: float = 0.9
    alpha: float = 1e-6
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _require_choice(name, getattr(self, name), choices)
        for name, largest in _LARGEST.items():
            _require_size(name, getattr(self, name), largest)
        steps = self.num_blocks * self.block_size
        _require_size("num_blocks times block_size", steps, _MOST_LAYERS)
        if not 0 < self.alpha < 0.5:  # at 0 the likelihood of black pixels is not finite
            raise ValueError(f"alpha: expected in (0, 0.5), got {self.alpha}")
        _require_moments(self.mean, self.std)
        _require_scales(self)
        if self.classes is not None and not (self.learn_top and self.classes > 1):
            raise ValueError(f"classes: expected learn_top, and two at least, got {self.classes}")
        if self.learn_top and self.architecture != "glow":
            raise ValueError(f"learn_top: expected a glow, got {self.architecture}")
        if self.linear == "none" and self.architecture != "glow":
            raise ValueError(
                f"linear: expected one, only a glow needs none, not {self.architecture}"
            )
        if self.architecture == "fully-connected" and self.linear not in _OF_VECTORS:
            names = " or ".join(_OF_VECTORS)
            raise ValueError(f"linear: expected {names} for vectors, got {self.linear}")
        if self.tap_bound is not None and self.linear not in _WITH_TAPS:
            names = ", ".join(_WITH_TAPS)
            raise ValueError(f"tap_bound: expected None, only {names} have taps, not {self.linear}")


@dataclass(frozen=True, kw_only=True)
class ContractiveConfig:
    """A flow of images in [0, 1] made of blocks that solve fixed points: a logit, then blocks.

    Behind the logit is an ActNorm, and behind every block another. Scales are halved images: the
    squeeze lies between them. In the end come blocks on the flattened image.

    Attributes:
        block: Kind of the blocks: those of i-DenseNets are residual, those of Implicit Normalizing
            Flows have two maps each. Couplings are there to be compared with: checkerboards of
            either kind of cells, then halves of the channels, take turns.
        scales: Blocks of every scale.
        net: Kind of their maps. dense: layers of `growth` concatenate. feedforward: layers of
            `width` with an activation in front, but for the first block (Residual Flows).
        growth: Channels that every dense layer of a block adds.
        width: Channels of hidden layers of feedforward nets, and inside of couplings.
        kernels: Kernel sizes of feedforward nets, one more than `depth`.
        depth: Hidden layers of a block.
        activation: Between them, see `flow_core.lipschitz.ACTIVATIONS`.
        dropout: Share of the channels that the last layer of a feedforward net is not given.
        actnorm: Whether there are ActNorms.
        dense_blocks: Blocks on the flattened image; of the last scale, where channels leave.
        dense_growth: Features that their dense layers add.
        dense_width: Features of their hidden layers, where they are feedforward nets or couplings.
        dense_entrance: Features that their first layer, without an activation, makes of the image
            for the dense ones; None for no such layer.
        alpha: Of the logit transform; at 0 only images without zeros and ones have a likelihood.
        coeff: Bound on the spectral norm of every layer, below 1.
        concat_bound: Bound on the weights of a concatenation, at most 1.
        squeeze_first: Whether the first scale works on halved images already.
        factor_out: Whether half of the channels leave after every scale but the last, behind its
            squeeze.
        mean: Of every channel, or one for all: the flow begins by standardising with mean and std;
            none for the logit.
        std: Standard deviations that belong to the means.
        coupling_scale: Scale function of couplings: σ(r + 2), or ½·σ(r + 2) + ½, whose inverse
            stretches by less than two; upper-half-of-channels leaves σ(r + 2) to checkerboards, as
            published in the attack on inverses (Behrmann et al. 2021).
        coupling_order: in-turns: two checkerboards, then the halves of the channels, on every
            scale; checkerboards-first: checkerboards on the first scale and halves of the channels
            on the others.
        coupling_activation: Between the layers of their conditioners.
        landmarks: Whether a pass can show what every scale makes, behind the squeeze to the next
            one, for heads on it.
    """

    block: Block = "monotone"
    scales: tuple[int, ...] = (4, 4)
    net: Net = "dense"
    growth: int = 32
    width: int = 512
    kernels: tuple[int, ...] = (3, 1, 3)
    depth: int = 2
    activation: str = "cpila"
    dropout: float = 0.0
    actnorm: bool = True
    dense_blocks: int = 2
    dense_growth: int = 32
    dense_width: int = 128
    dense_entrance: int | None = None
    alpha: float = 0.05
    coeff: float = 0.98
    concat_bound: float = 0.98
    squeeze_first: bool = False
    factor_out: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    coupling_scale: ScaleOfCouplings = "sigmoid"
    coupling_order: OrderOfCouplings = "in-turns"
    coupling_activation: ActivationOfCouplings = "relu"
    landmarks: bool = False

    def __post_init__(self) -> None:
        _require_choice("block", self.block, get_args(Block))
        _require_choice("net", self.net, get_args(Net))
        for name, choices in _OF_COUPLINGS.items():
            _require_choice(name, getattr(self, name), choices)
        known_name(self.activation)
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"scales: expected positive integers, got {self.scales}")
        if self.dense_blocks < 0:
            raise ValueError(
                f"dense_blocks: expected 0 or a positive integer, got {self.dense_blocks}"
            )
        blocks = sum(self.scales) + self.dense_blocks
        _require_size("blocks of all scales and dense_blocks", blocks, _MOST_LAYERS)
        for name, largest in _LARGEST_OF_BLOCKS.items():
            _require_size(name, getattr(self, name), largest)
        if self.dense_entrance is not None:
            _require_size("dense_entrance", self.dense_entrance, _MOST_CHANNELS)
        if self.dense_entrance is not None and self.net != "dense":
            raise ValueError(f"dense_entrance: expected None, only dense nets have it: {self.net}")
        if self.net == "feedforward" and len(self.kernels) != self.depth + 1:
            raise ValueError(
                f"kernels: expected depth + 1 = {self.depth + 1} sizes, got {self.kernels}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected in [0, 1), got {self.dropout}")
        if self.dropout and self.net != "feedforward":
            raise ValueError(f"dropout: expected 0, only feedforward nets have it, not {self.net}")
        if not 0 <= self.alpha < 0.5:
            raise ValueError(f"alpha: expected in [0, 0.5), got {self.alpha}")
        _require_bounds(self.coeff, self.concat_bound)
        _require_moments(self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class DequantizerConfig:
    """The distribution of the noise that makes real numbers of the integers of images.

    Attributes:
        kind: uniform, or variational: a conditional flow that is trained with the model.
        block: Kind of the blocks of the variational one. Residual and monotone ones are those of
            i-DenseNets, whose layers see what a `ResidualConditioner` makes of the integers.
        steps: Its blocks.
        width: Channels inside of couplings and of what an encoder of images gives them; of the
            other blocks, between the bottlenecks of the conditioner.
        inner: Channels inside of these bottlenecks.
        growth: Channels that every dense layer adds.
        depth: Dense layers of a block.
        dense_activation: Between them, see `flow_core.lipschitz.ACTIVATIONS`.
        coeff: Bound on the spectral norm of every layer, below 1.
        concat_bound: Bound on the weights of a concatenation, at most 1.
    """

    kind: Noise = "uniform"
    block: BlockOfNoise = "coupling"
    steps: int = 2
    width: int = 32
    inner: int = 512
    growth: int = 172
    depth: int = 3
    dense_activation: str = "cpila"
    coeff: float = 0.98
    concat_bound: float = 0.98

    def __post_init__(self) -> None:
        _require_choice("kind", self.kind, get_args(Noise))
        _require_choice("block", self.block, get_args(BlockOfNoise))
        known_name(self.dense_activation)
        _require_size("steps", self.steps, _MOST_LAYERS)
        _require_size("depth", self.depth, _LARGEST_OF_BLOCKS["depth"])
        for name in ("width", "inner", "growth"):
            _require_size(name, getattr(self, name), _MOST_CHANNELS)
        _require_bounds(self.coeff, self.concat_bound)


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _require_moments(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(std) != len(mean) or min(std, default=1.0) <= 0:
        raise ValueError(
            f"std: expected a positive number for each of {len(mean)} means, got {std}"
        )


def _require_scales(config: FlowConfig) -> None:
    """Of couplings, ActNorms and split priors."""
    for name in ("actnorm_std", "coupling_bound", "coupling_slope"):
        _require_between(name, getattr(config, name), math.inf)
    for name in ("actnorm_bound", "split_bound"):
        bound = getattr(config, name)
        _require_between(name, 1.0 if bound is None else bound, math.inf)
    _require_between("coupling_coeff", config.coupling_coeff, 1.0)
    eps, below = config.coupling_eps or 0.0, 1.0 if config.coupling == "half-range" else math.inf
    for name, value, end in (
        ("actnorm_eps", config.actnorm_eps, math.inf),
        ("coupling_eps", eps, below),
    ):
        if not 0 <= value < end:
            raise ValueError(f"{name}: expected in [0, {end:g}), got {value}")


def _require_between(name: str, value: float, high: float) -> None:
    """Above 0, and below something."""
    if not 0 < value < high:
        raise ValueError(f"{name}: expected between 0 and {high:g}, exclusive, got {value}")


def _require_bounds(coeff: float, concat_bound: float) -> None:
    _require_between("coeff", coeff, 1.0)
    if not 0 < concat_bound <= 1:
        raise ValueError(f"concat_bound: expected in (0, 1], got {concat_bound}")


def _require_size(name: str, value: int, largest: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value}")
    if value > largest:  # building it would not end, or not fit into any memory
        raise ValueError(f"{name}: expected at most {largest}, got {value}")


_CHOICES: dict[str, tuple[str, ...]] = {
    "architecture": get_args(Architecture),
    "linear": get_args(Linear),
    "mixing": get_args(Mixing),
    "coupling": get_args(CouplingKind),
    "coupling_net": get_args(CouplingNet),
    "split_net": get_args(SplitNet),
    "macow_scale": get_args(ScaleName),
    "macow_form": get_args(MacowForm),
    "activation": get_args(ActivationName),
}
_OF_COUPLINGS: dict[str, tuple[str, ...]] = {
    "coupling_scale": get_args(ScaleOfCouplings),
    "coupling_order": get_args(OrderOfCouplings),
    "coupling_activation": get_args(ActivationOfCouplings),
}
_OF_VECTORS = ("self-normalizing", "exact", "conv1x1")
_WITH_TAPS = ("inverse-conv", "inverse-flow-unit", "fincflow", "cincflow", "emerging")
# Beyond any that was published, by far; what is above is a slip.
_MOST_LAYERS = 1024
_MOST_CHANNELS = 8192
_LARGEST: Mapping[str, int] = {
    "kernel_size": 63,
    "num_blocks": _MOST_LAYERS,
    "block_size": _MOST_LAYERS,
    "coupling_width": _MOST_CHANNELS,
    "macow_width": 64,
    "n_bins": 1024,
}
_LARGEST_OF_BLOCKS: Mapping[str, int] = {
    "growth": _MOST_CHANNELS,
    "depth": 64,
    "dense_growth": _MOST_CHANNELS,
    "width": _MOST_CHANNELS,
    "dense_width": _MOST_CHANNELS,
}
