"""The noise of integer images, made from one config."""

from collections.abc import Callable, Iterator

from torch import nn

from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Monotone, Residual
from flow_core.combinators import Chain, Invert
from flow_core.dequantization import Dequantizer, UniformDequantizer, VariationalDequantizer
from flow_core.distributions import Flow
from flow_core.layers import ActNorm, AffineCoupling, Permutation, Squeeze
from flow_core.maps import DenseNet, LipschitzMap, ResidualConditioner
from flow_core.models.assembly import Shape, squeezed
from flow_core.models.config import DequantizerConfig
from flow_core.settings import Solve


def image_dequantizer(
    config: DequantizerConfig, shape: Shape, levels: int, *, solve: Solve | None = None
) -> Dequantizer:
    """The dequantizer of a config for images `(channels, height, width)` of integers.

    The variational one of couplings works on halved images: a squeeze, then steps of [ActNorm,
    affine coupling], between which the halves of the channels change places. Couplings see what two
    convolutions make of the integers. They are the identity at first, so after `initialize` the
    noise is all but uniform, see `VariationalDequantizer`.

    That of residual or monotone blocks is of Monotone Flows: v = B₁ ∘ … ∘ Bₙ(z), so that noise is
    drawn in the direction in which residual blocks need no solve. Each sees the integers by a
    conditioner of its own. Source: Ahn et al. 2022, variational dequantization, and released code.

    Args:
        config: What it is made of.
        shape: Of an image.
        levels: Number of different integers.
        solve: How blocks solve unless the settings of a call say otherwise; None for `Solve()`.

    Raises:
        ValueError: If couplings are asked for on images that cannot be halved, or there are fewer
            than two levels.
    """
    if config.kind == "uniform":
        return UniformDequantizer()
    if config.block == "coupling":
        return _of_couplings(config, shape, levels)
    kind = Monotone if config.block == "monotone" else Residual
    return _of_blocks(config, lambda net: kind(net, solve), shape, levels)


def _of_couplings(config: DequantizerConfig, shape: Shape, levels: int) -> Dequantizer:
    if shape[1] % 2 or shape[2] % 2:
        raise ValueError(
            f"kind: noise of couplings is for images of even height and width, got "
            f"{shape[1]}x{shape[2]}; crop or pad them, or take another block or uniform noise"
        )
    bijection = Chain([Squeeze(), *_couplings(config, squeezed(shape)[0])])
    flow = Flow(StandardNormal(squeezed(shape)), bijection, shape)
    return VariationalDequantizer(flow, _encoder(shape[0], config.width), levels)


def _couplings(config: DequantizerConfig, channels: int) -> Iterator[Bijection]:
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


def _of_blocks(
    config: DequantizerConfig,
    block: Callable[[LipschitzMap], Bijection],
    shape: Shape,
    levels: int,
) -> Dequantizer:
    blocks = [block(_conditioned_net(config, shape)) for _ in range(config.steps)]
    flow = Flow(StandardNormal(shape), Invert(Chain(blocks)), shape)
    return VariationalDequantizer(flow, nn.Identity(), levels)


def _conditioned_net(config: DequantizerConfig, shape: Shape) -> LipschitzMap:
    channels, *side = shape
    map_size = side[0], side[1]
    conditioner = ResidualConditioner(
        channels,
        growth=config.growth,
        depth=config.depth,
        map_size=map_size,
        width=config.width,
        inner=config.inner,
    )
    return DenseNet(
        channels,
        growth=config.growth,
        depth=config.depth,
        activation=config.dense_activation,
        coeff=config.coeff,
        concat_bound=config.concat_bound,
        map_size=map_size,
        conditioner=conditioner,
    )
