"""Plans of convolutional flows: Glow, convolutions with activations, and fully connected ones.

Sources: Kingma & Dhariwal 2018 (Glow); Keller et al. 2021 (Self Normalizing Flows), §5; Nagar et
al. 2025 (Inverse-Flow).
"""

from collections.abc import Callable, Iterator
from functools import partial

from flow_core.base import BaseDistribution, StandardNormal
from flow_core.bijection import Bijection
from flow_core.channel_normal import ChannelNormal
from flow_core.models.assembly import Plan, Shape, Split, staying
from flow_core.models.config import Architecture, FlowConfig
from flow_core.models.layers import (
    activation_layers,
    actnorm_layers,
    coupling_layers,
    linear_layer_of_vectors,
    linear_layers,
    mixing_layers,
    split_prior,
)


def convolutional_plan(config: FlowConfig) -> Plan:
    """The plan of the architecture that a config names."""
    return _PLANS[config.architecture](config)


def _glow(config: FlowConfig) -> Plan:
    """Blocks of steps; with split priors half of the channels leave between them."""
    return Plan(
        field="num_blocks",
        scales=[partial(_steps, config)] * config.num_blocks,
        squeeze_first=True,
        split=_split(config) if config.split_prior else None,
        chained=True,
        base=partial(_base, config),
        seen=config.classes is not None,
    )


def _base(config: FlowConfig, size: int, top: Shape) -> BaseDistribution:
    """Normal, with the channels of the last block learned if wanted."""
    if not config.learn_top:
        return StandardNormal((size,))
    return ChannelNormal((size,), top, classes=config.classes or 1)


def _cnn(config: FlowConfig) -> Plan:
    """Blocks of convolutions, squeezes between them, no activation after the last."""
    last = config.num_blocks - 1
    return Plan(
        field="num_blocks",
        scales=[partial(_convolutions, config, block == last) for block in range(last + 1)],
        squeeze_first=False,
    )


def _fully_connected(config: FlowConfig) -> Plan:
    """As many linear layers as steps in all blocks."""
    return Plan(
        field="num_blocks",
        scales=[lambda shape: ()],
        squeeze_first=False,
        end=partial(_linear_layers, config),
    )


def _steps(config: FlowConfig, shape: Shape) -> Iterator[Bijection]:
    for _ in range(config.block_size):
        yield from actnorm_layers(config, shape[0])
        yield from linear_layers(config, shape)
        yield from activation_layers(config, shape)
        yield from mixing_layers(config, shape[0])
        yield from coupling_layers(config, shape)


def _convolutions(config: FlowConfig, is_last: bool, shape: Shape) -> Iterator[Bijection]:
    for step in range(config.block_size):
        yield from linear_layers(config, shape)
        if not is_last or step < config.block_size - 1:
            yield from activation_layers(config, shape)


def _linear_layers(config: FlowConfig, size: int) -> Iterator[Bijection]:
    for layer in range(config.num_blocks * config.block_size):
        if layer:
            yield from activation_layers(config, (size,))
        yield linear_layer_of_vectors(config, size)


def _split(config: FlowConfig) -> Split:
    def prior(shape: Shape) -> Bijection:
        """What standardises the part that leaves, given the part that stays."""
        stays = staying(shape)[0]
        return split_prior(config, stays, shape[0] - stays)

    return Split(after_squeeze=False, prior=prior)


_PLANS: dict[Architecture, Callable[[FlowConfig], Plan]] = {
    "glow": _glow,
    "cnn": _cnn,
    "fully-connected": _fully_connected,
}
