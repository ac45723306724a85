"""Couplings in the place of blocks that solve fixed points."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from flow_core.bijection import Bijection
from flow_core.combinators import Chain
from flow_core.layers import (
    AffineCoupling,
    CheckerboardCoupling,
    Permutation,
    ScaleFunction,
    SigmoidScale,
    UpperHalfSigmoidScale,
    convolutional_conditioner,
    dense_conditioner,
)
from flow_core.models.config import ActivationOfCouplings, ContractiveConfig

_ACTIVATIONS: Mapping[ActivationOfCouplings, type[nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU}


@dataclass(frozen=True)
class SizesOfBlock:
    """Of one block.

    Attributes:
        channels: That come in and go out.
        growth: Of dense nets.
        width: Of feedforward nets and couplings.
        map_size: Of images; None for vectors.
        scale: Number of the scale of an image.
    """

    channels: int
    growth: int
    width: int
    map_size: tuple[int, int] | None = None
    scale: int = 0


def coupling(config: ContractiveConfig, sizes: SizesOfBlock, i: int) -> Bijection:
    """Coupling i of its scale: even cells stay, odd ones, the first half of the channels, the last.

    Scales are σ(r + 2), as in the released code of Residual Flows, unless asked for otherwise.
    """
    if sizes.map_size is None:
        return _of_channels(config, sizes, i % 2)
    turn = _turn(config, sizes, i)
    return _checkerboard(config, sizes, turn) if turn < 2 else _of_channels(config, sizes, turn - 2)


def _turn(config: ContractiveConfig, sizes: SizesOfBlock, i: int) -> int:
    if sizes.channels == 1:
        return i % 2
    if config.coupling_order == "in-turns":
        return i % 4
    return i % 2 if sizes.scale == 0 else 2 + i % 2


def _checkerboard(config: ContractiveConfig, sizes: SizesOfBlock, still: int) -> Bijection:
    upper = config.coupling_scale == "upper-half-sigmoid"
    conditioner = convolutional_conditioner(
        sizes.channels, 2 * sizes.channels, sizes.width, _ACTIVATIONS[config.coupling_activation]
    )
    return CheckerboardCoupling(conditioner, sizes.channels, 1 if still else 0, _scale(upper))


def _of_channels(config: ContractiveConfig, sizes: SizesOfBlock, swapped: int) -> Bijection:
    """With the channels in the opposite order inside of it, where it is swapped."""
    channels, activation = sizes.channels, _ACTIVATIONS[config.coupling_activation]
    still, scale = channels // 2, _scale(config.coupling_scale != "sigmoid")
    moved = 2 * (channels - still)
    if sizes.map_size is None:
        net = dense_conditioner(still, moved, sizes.width, activation)
        layer = AffineCoupling(net, scale, event_shape=(channels,))
    else:
        net = convolutional_conditioner(still, moved, sizes.width, activation)
        layer = AffineCoupling(net, scale, event_shape=(channels, None, None))
    if not swapped:
        return layer
    return Chain([Permutation.reversal(channels), layer, Permutation.reversal(channels)])


def _scale(upper: bool) -> ScaleFunction:
    return UpperHalfSigmoidScale() if upper else SigmoidScale()
