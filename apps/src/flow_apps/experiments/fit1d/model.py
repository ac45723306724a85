"""A chain of layers that fits a function."""

from collections.abc import Callable

import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual, inverse_residual
from flow_core.combinators import Chain
from flow_core.distributions import Flow
from flow_core.layers import ActNorm
from flow_core.maps import DenseNet, FeedForwardNet, LipschitzMap

from flow_apps.experiments.fit1d.config import Fit1dConfig, Layer
from flow_apps.parts.settings import solve
from flow_apps.training.randomness import derive_seed


def build_flow(config: Fit1dConfig) -> Flow:
    """The layers of a config, initialised from its seed alone, as a flow: y = bijection(x)."""
    solves = solve(config.contraction)

    def net() -> LipschitzMap:
        """A map of its own for every block."""
        return _net(config)

    makers: dict[Layer, Callable[[], Bijection]] = {
        "actnorm": lambda: ActNorm(1),
        "residual": lambda: Residual(net(), solves),
        "inverse_residual": lambda: inverse_residual(net(), solves),
        "implicit": lambda: Implicit(net(), net(), solves),
        "monotone": lambda: Monotone(net(), solves),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        layers = [makers[name]() for name in config.layers]
    return Flow(StandardNormal((1,)), Chain(layers))


def _net(config: Fit1dConfig) -> LipschitzMap:
    contraction = config.contraction
    if config.net == "feedforward":
        hidden = [config.growth] * config.depth
        return FeedForwardNet(1, hidden, activation=config.activation, coeff=contraction.coeff)
    return DenseNet(
        1,
        growth=config.growth,
        depth=config.depth,
        activation=config.activation,
        coeff=contraction.coeff,
        concat_bound=contraction.concat_bound,
    )
