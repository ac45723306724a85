"""The flow that is fitted to a projection."""

import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.combinators import Chain
from flow_core.distributions import Flow
from flow_core.layers import ActNorm, AffineCoupling, Permutation, SigmoidScale
from torch import nn

from flow_apps.experiments.regression2d.config import Regression2dConfig
from flow_apps.training.randomness import derive_seed


def build_flow(config: Regression2dConfig) -> Flow:
    """The flow of a config, initialised from its seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        layers = [layer for _ in range(config.steps) for layer in _step(config)]
    return Flow(StandardNormal((2,)), Chain(layers))


def _step(config: Regression2dConfig) -> tuple[Bijection, ...]:
    width = config.width
    net = nn.Sequential(
        nn.Linear(1, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 2),
    )
    scale = SigmoidScale(epsilon=config.affine_eps)
    coupling = AffineCoupling(net, scale, event_shape=(2,))
    return _identity(), Permutation.reversal(2), coupling


def _identity() -> ActNorm:
    """An ActNorm that takes no statistics, as published."""
    norm = ActNorm(2)
    norm.initialized.fill_(True)
    norm.refresh_initialized()
    return norm
