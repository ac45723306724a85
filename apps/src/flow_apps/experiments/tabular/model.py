"""The flow of a table."""

from collections.abc import Callable

import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual
from flow_core.combinators import Chain
from flow_core.distributions import Flow
from flow_core.layers import ActNorm
from flow_core.maps import DenseNet, FeedForwardNet, LipschitzMap, SandwichNet
from flow_core.settings import Solve

from flow_apps.experiments.tabular.config import BlockOfTables, NetOfTables, TabularConfig
from flow_apps.parts.settings import follow_spectra, solve
from flow_apps.training.randomness import derive_seed


def build_flow(config: TabularConfig) -> Flow:
    """The flow of a config, initialised from its seed alone."""
    dim, solves = config.table.dimensions, solve(config.contraction)
    net, make = _NETS[config.net], _BLOCKS[config.block]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        blocks = [make(lambda: net(config, dim), solves) for _ in range(config.blocks)]
    layers: list[Bijection] = [*blocks]
    if config.actnorm:
        layers = [ActNorm(dim), *(layer for block in blocks for layer in (block, ActNorm(dim)))]
    flow = Flow(StandardNormal((dim,)), Chain(layers))
    follow_spectra(flow, config.contraction)
    return flow


def _dense(config: TabularConfig, dim: int) -> LipschitzMap:
    return DenseNet(
        dim,
        growth=config.growth,
        depth=config.depth,
        activation=config.activation,
        coeff=config.contraction.coeff,
        concat_bound=config.contraction.concat_bound,
    )


def _feedforward(config: TabularConfig, dim: int) -> LipschitzMap:
    # As published, blocks start near the identity.
    return FeedForwardNet(
        dim,
        [config.width] * config.depth,
        activation=config.activation,
        coeff=config.contraction.coeff,
        zero_init=True,
    )


def _sandwich(config: TabularConfig, dim: int) -> LipschitzMap:
    return SandwichNet(
        dim,
        [config.width] * config.depth,
        lipschitz=config.contraction.coeff,
        activation=config.activation,
        gain=config.gain,
    )


_NETS: dict[NetOfTables, Callable[[TabularConfig, int], LipschitzMap]] = {
    "dense": _dense,
    "feedforward": _feedforward,
    "sandwich": _sandwich,
}
_BLOCKS: dict[BlockOfTables, Callable[[Callable[[], LipschitzMap], Solve], Bijection]] = {
    "implicit": lambda net, solves: Implicit(net(), net(), solves),
    "monotone": lambda net, solves: Monotone(net(), solves),
    "residual": lambda net, solves: Residual(net(), solves),
}
