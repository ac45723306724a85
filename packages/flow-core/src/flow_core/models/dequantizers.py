"""The noise of integer images, made from one config."""

from collections.abc import Iterator

from torch import nn

from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.combinators import Chain
from flow_core.dequantization import Dequantizer, UniformDequantizer, VariationalDequantizer
from flow_core.distributions import Flow
from flow_core.layers import ActNorm, AffineCoupling, Permutation, Squeeze
from flow_core.models.assembly import Shape, squeezed
from flow_core.models.config import DequantizerConfig


def image_dequantizer(config: DequantizerConfig, shape: Shape, levels: int) -> Dequantizer:
    """The dequantizer of a config for images `(channels, height, width)` of integers.

    The variational one works on halved images: a squeeze, then steps of [ActNorm, affine coupling],
    between which the halves of the channels change places. Couplings see what two convolutions make
    of the integers. They are the identity at first, so after `initialize` the noise is all but
    uniform, see `VariationalDequantizer`.

    Raises:
        ValueError: If variational noise is asked for on images that cannot be halved, or there are
            fewer than two levels.
    """
    if config.kind == "uniform":
        return UniformDequantizer()
    if shape[1] % 2 or shape[2] % 2:
        raise ValueError(
            f"kind: variational noise is for images of even height and width, got "
            f"{shape[1]}x{shape[2]}; crop or pad them, or take uniform noise"
        )
    bijection = Chain([Squeeze(), *_steps(config, squeezed(shape)[0])])
    flow = Flow(StandardNormal(squeezed(shape)), bijection, shape)
    return VariationalDequantizer(flow, _encoder(shape[0], config.width), levels)


def _steps(config: DequantizerConfig, channels: int) -> Iterator[Bijection]:
    for step in range(config.steps):
        if step:
            yield Permutation.reversal(channels)
        yield ActNorm(channels)
        yield AffineCoupling.convolutional(channels, config.width, context_features=config.width)


def _encoder(channels: int, width: int) -> nn.Module:
    """To features of images half as large."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
    )
