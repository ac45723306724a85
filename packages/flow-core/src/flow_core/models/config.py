"""What an image flow is made of."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

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
]
Mixing: TypeAlias = Literal[
    "none", "conv1x1", "lu", "orthogonal", "householder", "reverse", "shuffle"
]
ActivationName: TypeAlias = Literal[
    "none", "slr", "leaky", "learnable-leaky", "smooth-tanh", "spline", "selu"
]
CouplingKind: TypeAlias = Literal["affine", "sigmoid", "half-range", "additive", "none"]


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """A flow of images in [0, 1]: a logit, then layers; sizes follow from the image.

    Attributes:
        architecture: glow: blocks of a squeeze and steps of [ActNorm, linear, activation, mixing,
            coupling]. cnn: blocks of linear layers with activations between, and squeezes between
            blocks. fully-connected: linear layers on the flattened image, activations between.
        linear: The linear layer of every step. emerging, exponential and macow begin with a 1x1
            convolution, as their papers have it.
        kernel_size: Side of its kernel.
        num_blocks: Blocks; every one of a glow halves the image.
        block_size: Steps of a block.
        actnorm: Whether steps of a glow begin with an ActNorm.
        actnorm_bound: Largest log-scale of an ActNorm in nats, or None for any.
        mixing: How a step of a glow mixes channels before its coupling.
        coupling: Scale function of the couplings; additive ones have none.
        coupling_width: Channels inside the networks of couplings and split priors.
        macow_width: Channels inside masked convolutions, as a multiple of theirs.
        split_prior: Whether half of the channels leave after every block of a glow but the last.
        activation: Between linear layers; none for a glow that has couplings only. selu is not
            onto the real line: its flow has a mass below one, and samples out of reach are NaN.
        n_bins: Bins of spline activations.
        tail_bound: Spline activations are linear beyond.
        individual: Whether every value of an image has a spline of its own.
        tap_bound: Bound on the taps of inverse convolutions, see `InverseConv2d`, or None; for
            inverse-conv, inverse-flow-unit, fincflow, cincflow and emerging.
        exponential_coeff: Bound on the spectral norm of the exponent of exponential convolutions.
        alpha: Of the logit transform.
    """

    architecture: Architecture = "glow"
    linear: Linear = "inverse-conv"
    kernel_size: int = 3
    num_blocks: int = 2
    block_size: int = 4
    actnorm: bool = True
    actnorm_bound: float | None = None
    mixing: Mixing = "none"
    coupling: CouplingKind = "affine"
    coupling_width: int = 512
    macow_width: int = 4
    split_prior: bool = True
    activation: ActivationName = "none"
    n_bins: int = 5
    tail_bound: float = 10.0
    individual: bool = False
    tap_bound: float | None = None
    exponential_coeff: float = 0.9
    alpha: float = 1e-6

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
        sizes = ("kernel_size", "num_blocks", "block_size", "coupling_width", "macow_width")
        for name in (*sizes, "n_bins"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value}")
        if not 0 < self.alpha < 0.5:  # at 0 the likelihood of black pixels is not finite
            raise ValueError(f"alpha: expected in (0, 0.5), got {self.alpha}")
        if self.architecture == "fully-connected" and self.linear not in _OF_VECTORS:
            names = " or ".join(_OF_VECTORS)
            raise ValueError(f"linear: expected {names} for vectors, got {self.linear}")
        if self.tap_bound is not None and self.linear not in _WITH_TAPS:
            names = ", ".join(_WITH_TAPS)
            raise ValueError(f"tap_bound: expected None, only {names} have taps, not {self.linear}")


_CHOICES: dict[str, tuple[str, ...]] = {
    "architecture": get_args(Architecture),
    "linear": get_args(Linear),
    "mixing": get_args(Mixing),
    "coupling": get_args(CouplingKind),
    "activation": get_args(ActivationName),
}
_OF_VECTORS = ("self-normalizing", "exact", "conv1x1")
_WITH_TAPS = ("inverse-conv", "inverse-flow-unit", "fincflow", "cincflow", "emerging")
