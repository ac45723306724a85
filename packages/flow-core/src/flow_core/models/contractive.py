"""The plan of flows of contractive blocks: Monotone Flows and i-DenseNets.

Sources: Chen et al. 2019 (Residual Flows), §4 and released code; Perugachi-Diaz et al. 2021
(i-DenseNets), §3; Ahn et al. 2022 (Monotone Flows), §5.3.
"""

from collections.abc import Callable, Iterator
from functools import partial

from flow_core.bijection import Bijection
from flow_core.blocks import Monotone, Residual
from flow_core.layers import ActNorm
from flow_core.maps import DenseNet
from flow_core.models.assembly import Plan, Shape, Split
from flow_core.models.config import Block, ContractiveConfig
from flow_core.settings import Solve


def contractive_plan(config: ContractiveConfig, solve: Solve | None) -> Plan:
    """An ActNorm, then blocks with one after each, of images and in the end of vectors."""
    scales = range(len(config.scales))
    return Plan(
        field="scales",
        scales=[partial(_blocks_of_images, config, solve, scale) for scale in scales],
        squeeze_first=config.squeeze_first,
        split=Split(after_squeeze=True) if config.factor_out else None,
        end=partial(_blocks_of_vectors, config, solve),
    )


def _blocks_of_images(
    config: ContractiveConfig, solve: Solve | None, scale: int, shape: Shape
) -> Iterator[Bijection]:
    channels, height, width = shape
    if scale == 0:
        yield ActNorm(channels)
    for _ in range(config.scales[scale]):
        yield _block(config, solve, channels, config.growth, (height, width))
        yield ActNorm(channels)


def _blocks_of_vectors(
    config: ContractiveConfig, solve: Solve | None, size: int
) -> Iterator[Bijection]:
    for _ in range(config.dense_blocks):
        yield _block(config, solve, size, config.dense_growth, None)
        yield ActNorm(size)


def _block(
    config: ContractiveConfig,
    solve: Solve | None,
    channels: int,
    growth: int,
    map_size: tuple[int, int] | None,
) -> Bijection:
    net = DenseNet(
        channels,
        growth=growth,
        depth=config.depth,
        activation=config.activation,
        coeff=config.coeff,
        concat_bound=config.concat_bound,
        map_size=map_size,
    )
    return _BLOCKS[config.block](net, solve)


_BLOCKS: dict[Block, Callable[[DenseNet, Solve | None], Bijection]] = {
    "monotone": Monotone,
    "residual": Residual,
}
