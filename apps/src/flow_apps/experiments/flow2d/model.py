"""The flow of a two-dimensional density."""

from itertools import pairwise

import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.combinators import Chain
from flow_core.distributions import Flow
from flow_core.layers import AffineCoupling, Permutation, SigmoidScale, UpperHalfSigmoidScale
from torch import nn

from flow_apps.experiments.flow2d.config import Flow2dConfig
from flow_apps.experiments.toy2d.model import build_flow as build_contractive
from flow_apps.training.randomness import derive_seed


def build_flow(config: Flow2dConfig) -> Flow:
    """The flow of a config, initialised from its seed alone."""
    if config.kind not in ("affine", "modified-affine"):
        return build_contractive(config.toy)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        layers = [layer for _ in range(config.blocks) for layer in _both_ways(config)]
    return Flow(StandardNormal((2,)), Chain(layers))


def _both_ways(config: Flow2dConfig) -> tuple[Bijection, ...]:
    """The first value moves the second, then the second the first."""
    swap = Permutation.reversal(2)
    return _coupling(config), swap, _coupling(config), Permutation.reversal(2)


def _coupling(config: Flow2dConfig) -> Bijection:
    scale = SigmoidScale() if config.kind == "affine" else UpperHalfSigmoidScale()
    return AffineCoupling(_net(config), scale, event_shape=(2,))


def _net(config: Flow2dConfig) -> nn.Module:
    """Swish in front of every linear layer, the first one too, as published."""
    sizes = [1, *[config.width] * config.depth, 2]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.SiLU(), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers)
