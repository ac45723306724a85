"""The plan of flows of blocks that solve fixed points, and of couplings.

Those of Residual Flows, i-DenseNets, Implicit Normalizing Flows and Monotone Flows. Sources: Chen
et al. 2019, §4; Perugachi-Diaz et al. 2021, §3; Lu et al. 2021, §6; Ahn et al. 2022, §5.3; and the
released codes.
"""

from collections.abc import Iterator
from functools import partial

from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual
from flow_core.layers import (
    ActNorm,
)
from flow_core.maps import DenseNet, FeedForwardNet, LipschitzMap
from flow_core.models.assembly import Plan, Shape, Split
from flow_core.models.config import ContractiveConfig
from flow_core.models.couplings import SizesOfBlock, coupling
from flow_core.settings import Solve


def contractive_plan(config: ContractiveConfig, solve: Solve | None) -> Plan:
    """An ActNorm, then blocks with one after each, of images and in the end of vectors."""
    scales = range(len(config.scales))
    return Plan(
        field="scales",
        scales=[partial(_blocks_of_images, config, solve, scale) for scale in scales],
        squeeze_first=config.squeeze_first,
        split=Split(after_squeeze=True) if config.factor_out else None,
        landmarks=config.landmarks,
        end=partial(_blocks_of_vectors, config, solve),
    )


def _blocks_of_images(
    config: ContractiveConfig, solve: Solve | None, scale: int, shape: Shape
) -> Iterator[Bijection]:
    channels, height, width = shape
    if scale == 0:
        yield from _actnorms(config, channels)
    for i in range(config.scales[scale]):
        sizes = SizesOfBlock(channels, config.growth, config.width, (height, width), scale)
        yield _block(config, solve, sizes, i, opens=scale == i == 0)
        yield from _actnorms(config, channels)


def _blocks_of_vectors(
    config: ContractiveConfig, solve: Solve | None, size: int
) -> Iterator[Bijection]:
    sizes = SizesOfBlock(size, config.dense_growth, config.dense_width)
    for i in range(config.dense_blocks):
        yield _block(config, solve, sizes, i, opens=False)
        yield from _actnorms(config, size)


def _actnorms(config: ContractiveConfig, channels: int) -> Iterator[Bijection]:
    if config.actnorm:
        yield ActNorm(channels)


def _block(
    config: ContractiveConfig, solve: Solve | None, sizes: SizesOfBlock, i: int, *, opens: bool
) -> Bijection:
    """Block i of its scale; `opens` tells the first one of all."""
    if config.block == "coupling":
        return coupling(config, sizes, i)

    def net() -> LipschitzMap:
        """A map of its own."""
        dense = config.net == "dense"
        return _dense(config, sizes) if dense else _feedforward(config, sizes, opens)

    if config.block == "implicit":
        return Implicit(net(), net(), solve)
    return (Monotone if config.block == "monotone" else Residual)(net(), solve)


def _dense(config: ContractiveConfig, sizes: SizesOfBlock) -> LipschitzMap:
    return DenseNet(
        sizes.channels,
        growth=sizes.growth,
        depth=config.depth,
        activation=config.activation,
        coeff=config.coeff,
        concat_bound=config.concat_bound,
        map_size=sizes.map_size,
        entrance=config.dense_entrance if sizes.map_size is None else None,
    )


def _feedforward(config: ContractiveConfig, sizes: SizesOfBlock, opens: bool) -> LipschitzMap:
    return FeedForwardNet(
        sizes.channels,
        [sizes.width] * config.depth,
        activation=config.activation,
        coeff=config.coeff,
        kernels=None if sizes.map_size is None else config.kernels,
        map_size=sizes.map_size,
        preact=not opens,
        dropout=config.dropout,
    )
