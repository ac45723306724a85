"""The flow of a two-dimensional density."""

import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual
from flow_core.combinators import Chain
from flow_core.distributions import Flow
from flow_core.layers import ActNorm
from flow_core.maps import DenseNet, FeedForwardNet, LipschitzMap, SandwichNet

from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.parts.settings import follow_spectra, solve
from flow_apps.training.randomness import derive_seed


def build_flow(config: Toy2dConfig) -> Flow:
    """The flow of a config, initialised from its seed alone."""
    contraction = config.contraction
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        blocks = [_block(config) for _ in range(config.blocks)]
    layers: list[Bijection] = [*blocks]
    if config.actnorm:
        layers = [ActNorm(2), *(layer for block in blocks for layer in (block, ActNorm(2)))]
    flow = Flow(StandardNormal((2,)), Chain(layers))
    follow_spectra(flow, contraction)
    return flow


def _block(config: Toy2dConfig) -> Bijection:
    solves = solve(config.contraction)
    if config.block == "implicit":
        return Implicit(_net(config), _net(config), solves)
    return (Monotone if config.block == "monotone" else Residual)(_net(config), solves)


def _net(config: Toy2dConfig) -> LipschitzMap:
    hidden = [config.width] * config.depth
    if config.net == "sandwich":
        return SandwichNet(
            2,
            hidden,
            lipschitz=config.contraction.coeff,
            activation=config.activation,
            gain=config.gain,
        )
    if config.net == "feedforward":
        coeff = config.contraction.coeff
        return FeedForwardNet(2, hidden, activation=config.activation, coeff=coeff, zero_init=True)
    return DenseNet(
        2,
        growth=config.growth,
        depth=config.depth,
        activation=config.activation,
        coeff=config.contraction.coeff,
        concat_bound=config.contraction.concat_bound,
    )
