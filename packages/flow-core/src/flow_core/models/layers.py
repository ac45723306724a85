"""The layers that a config names, for images of a size."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from flow_core.bijection import Bijection
from flow_core.combinators import Chain
from flow_core.layers import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    BoundedExpScale,
    Conv1x1,
    ExactConv2d,
    ExponentialConv2d,
    HalfRangeSigmoidScale,
    HouseholderMatrix,
    InverseConv2d,
    LeakyReLU,
    LearnableLeakyReLU,
    LUMatrix,
    OrthogonalMatrix,
    Permutation,
    RationalQuadraticSpline,
    ScaleFunction,
    SelfNormConv2d,
    SelfNormLinear,
    SELUTransform,
    SigmoidScale,
    SmoothLeakyReLU,
    SmoothTanh,
    cinc,
    convolutional_conditioner,
    emerging,
    finc,
    inverse_flow_unit,
    macow_unit,
)
from flow_core.models.assembly import Shape
from flow_core.models.config import (
    ActivationName,
    CouplingKind,
    FlowConfig,
    Linear,
    Mixing,
    ScaleName,
)

# Glow standardises every channel that varies at all.
_VARIANCE_FLOOR = 1e-8

Maker: TypeAlias = Callable[[FlowConfig, Shape], Bijection]


def linear_layer(config: FlowConfig, shape: Shape) -> Bijection:
    """The linear layer of a step on images `(channels, height, width)`."""
    return _LINEAR[config.linear](config, shape)


def linear_layer_of_vectors(config: FlowConfig, features: int) -> Bijection:
    """The linear layer of a fully connected flow."""
    if config.linear == "self-normalizing":
        return SelfNormLinear(features)
    return Conv1x1(features, bias=True)


def activation_layers(config: FlowConfig, shape: tuple[int, ...]) -> Iterator[Bijection]:
    """The activation for samples of a shape, if there is one."""
    if config.activation != "none":
        yield _ACTIVATIONS[config.activation](config, shape)


def mixing_layers(config: FlowConfig, channels: int) -> Iterator[Bijection]:
    """The mixing of channels before a coupling, if there is one."""
    if config.mixing != "none":
        yield _MIXING[config.mixing](channels)


def coupling_layers(config: FlowConfig, channels: int) -> Iterator[Bijection]:
    """The coupling of a step, if there is one."""
    if config.coupling != "none":
        yield _COUPLINGS[config.coupling](channels, config.coupling_width)


def actnorm_layers(config: FlowConfig, channels: int) -> Iterator[Bijection]:
    """The ActNorm of a step, if there is one."""
    if config.actnorm:
        floor = _VARIANCE_FLOOR
        yield ActNorm(channels, variance_floor=floor, log_scale_bound=config.actnorm_bound)


def _after_conv1x1(make: Maker) -> Maker:
    return lambda config, shape: Chain([Conv1x1(shape[0]), make(config, shape)])


def _additive(channels: int, width: int) -> Bijection:
    half = channels // 2
    conditioner = convolutional_conditioner(half, channels - half, width)
    return AdditiveCoupling(conditioner, (channels, None, None))


_LINEAR: dict[Linear, Maker] = {
    "inverse-conv": lambda config, shape: InverseConv2d(
        shape[0], config.kernel_size, tap_bound=config.tap_bound
    ),
    "inverse-flow-unit": lambda config, shape: inverse_flow_unit(
        shape[0], config.kernel_size, tap_bound=config.tap_bound
    ),
    "fincflow": lambda config, shape: finc(
        shape[0], config.kernel_size, tap_bound=config.tap_bound
    ),
    "cincflow": lambda config, shape: cinc(
        shape[0], config.kernel_size, tap_bound=config.tap_bound
    ),
    "self-normalizing": lambda config, shape: SelfNormConv2d(
        shape[0], config.kernel_size, shape[1:]
    ),
    "exact": lambda config, shape: ExactConv2d(shape[0], config.kernel_size, shape[1:]),
    "conv1x1": lambda config, shape: Conv1x1(shape[0]),
    "emerging": _after_conv1x1(
        lambda config, shape: emerging(shape[0], config.kernel_size, tap_bound=config.tap_bound)
    ),
    "exponential": _after_conv1x1(
        lambda config, shape: ExponentialConv2d(
            shape[0], config.kernel_size, shape[1:], coeff=config.exponential_coeff
        )
    ),
    "macow": _after_conv1x1(
        lambda config, shape: macow_unit(
            shape[0],
            config.macow_width * shape[0],
            scale=_SCALES[config.macow_scale],
            form=config.macow_form,
        )
    ),
}

_ACTIVATIONS: dict[ActivationName, Callable[[FlowConfig, tuple[int, ...]], Bijection]] = {
    "slr": lambda config, shape: SmoothLeakyReLU(),
    "leaky": lambda config, shape: LeakyReLU(),
    "learnable-leaky": lambda config, shape: LearnableLeakyReLU(),
    "smooth-tanh": lambda config, shape: SmoothTanh(),
    "spline": lambda config, shape: RationalQuadraticSpline(
        config.n_bins, config.tail_bound, shape=shape if config.individual else None
    ),
    "selu": lambda config, shape: SELUTransform(),
}

_MIXING: dict[Mixing, Callable[[int], Bijection]] = {
    "conv1x1": Conv1x1,
    "lu": lambda channels: Conv1x1(LUMatrix(channels)),
    "orthogonal": lambda channels: Conv1x1(OrthogonalMatrix(channels)),
    "householder": lambda channels: Conv1x1(HouseholderMatrix(channels)),
    "reverse": Permutation.reversal,
    "shuffle": Permutation.random,
}

_SCALES: dict[ScaleName, ScaleFunction] = {
    "bounded-exp": BoundedExpScale(),
    "sigmoid": SigmoidScale(),
    "half-range": HalfRangeSigmoidScale(),
}

_COUPLINGS: dict[CouplingKind, Callable[[int, int], Bijection]] = {
    "affine": partial(AffineCoupling.convolutional, scale=_SCALES["bounded-exp"]),
    "sigmoid": partial(AffineCoupling.convolutional, scale=_SCALES["sigmoid"]),
    "half-range": partial(AffineCoupling.convolutional, scale=_SCALES["half-range"]),
    "additive": _additive,
}
