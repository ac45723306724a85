"""The layers that a config names, for images of a size."""

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

from torch import nn

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
    SplitPrior,
    ZeroConv2d,
    cinc,
    convolutional_conditioner,
    emerging,
    finc,
    inverse_flow_unit,
    macow_unit,
    normed_conditioner,
    spectral_conditioner,
)
from flow_core.models.assembly import Shape
from flow_core.models.config import (
    ActivationName,
    FlowConfig,
    Linear,
    Mixing,
    ScaleName,
)

# Glow standardises every channel that varies at all.
_VARIANCE_FLOOR = 1e-8

Maker: TypeAlias = Callable[[FlowConfig, Shape], Bijection]


def linear_layers(config: FlowConfig, shape: Shape) -> Iterator[Bijection]:
    """The linear layer of a step on images `(channels, height, width)`, if there is one."""
    if config.linear != "none":
        yield _LINEAR[config.linear](config, shape)


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


def coupling_layers(config: FlowConfig, shape: Shape) -> Iterator[Bijection]:
    """The coupling of a step, if there is one."""
    if config.coupling == "none":
        return
    still, moved = shape[0] // 2, shape[0] - shape[0] // 2
    event_shape = (shape[0], None, None)
    if config.coupling == "additive":
        yield AdditiveCoupling(_conditioner(config, still, moved, shape[1:]), event_shape)
    else:
        conditioner = _conditioner(config, still, 2 * moved, shape[1:])
        scale = _coupling_scale(config, config.coupling)
        yield AffineCoupling(conditioner, scale, event_shape=event_shape)


def actnorm_layers(config: FlowConfig, channels: int) -> Iterator[Bijection]:
    """The ActNorm of a step, if there is one."""
    if config.actnorm:
        yield ActNorm(
            channels,
            variance_floor=_VARIANCE_FLOOR,
            log_scale_bound=config.actnorm_bound,
            epsilon=config.actnorm_eps,
            std=config.actnorm_std,
        )


def split_prior(config: FlowConfig, staying: int, leaving: int) -> Bijection:
    """What standardises channels that leave, given those that stay."""
    bound = config.split_bound
    if config.split_net == "linear":
        net, shape = ZeroConv2d(staying, 2 * leaving), (leaving, None, None)
        there = (staying, None, None)
        return SplitPrior(net, log_scale_bound=bound, event_shape=shape, context_shape=there)
    return SplitPrior.convolutional(staying, leaving, config.coupling_width, log_scale_bound=bound)


def _conditioner(
    config: FlowConfig, inputs: int, outputs: int, map_size: tuple[int, int]
) -> nn.Module:
    width = config.coupling_width
    if config.coupling_net == "normed":
        return normed_conditioner(inputs, outputs, width, variance_floor=_VARIANCE_FLOOR)
    if config.coupling_net == "spectral":
        coeff = config.coupling_coeff
        return spectral_conditioner(inputs, outputs, width, map_size, coeff=coeff)
    return convolutional_conditioner(inputs, outputs, width)


def _coupling_scale(
    config: FlowConfig, kind: Literal["affine", "sigmoid", "half-range"]
) -> ScaleFunction:
    eps = config.coupling_eps
    if kind == "sigmoid":
        return SigmoidScale(config.coupling_shift, eps or 0.0)
    if kind == "half-range":
        return HalfRangeSigmoidScale() if eps is None else HalfRangeSigmoidScale(eps)
    return BoundedExpScale(config.coupling_bound, config.coupling_slope)


def _after_conv1x1(make: Maker) -> Maker:
    return lambda config, shape: Chain([Conv1x1(shape[0]), make(config, shape)])


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
