"""Flows of images: Glow, convolutional and fully connected, made from one config.

Sources: Kingma & Dhariwal 2018 (Glow); Keller et al. 2021 (Self Normalizing Flows), §5; Nagar et
al. 2025 (Inverse-Flow).
"""

import math
from collections.abc import Callable, Iterator

from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.combinators import Chain, Multiscale
from flow_core.distributions import Flow
from flow_core.layers import LogitTransform, Reshape, SplitPrior, Squeeze
from flow_core.models.config import Architecture, FlowConfig
from flow_core.models.layers import (
    Shape,
    activation_layers,
    actnorm_layers,
    coupling_layers,
    linear_layer,
    linear_layer_of_vectors,
    mixing_layers,
)


def image_flow(config: FlowConfig, shape: Shape) -> Flow:
    """The flow of a config for images `(channels, height, width)` with values in [0, 1].

    Raises:
        ValueError: If the images cannot be halved often enough, or the channels do not fit.
    """
    layers = _ARCHITECTURES[config.architecture](config, shape)
    bijection = Chain([LogitTransform(config.alpha), *layers])
    return Flow(StandardNormal((math.prod(shape),)), bijection, shape)


def _glow(config: FlowConfig, shape: Shape) -> list[Bijection]:
    """Blocks of steps; with split priors half of the channels leave between them."""
    _require_halvings(shape, config.num_blocks)
    scales: list[Bijection] = []
    shapes: list[Shape] = []
    for _ in range(config.num_blocks):
        shape = _squeezed(shape)
        steps = [layer for _ in range(config.block_size) for layer in _step(config, shape)]
        scales.append(Chain([Squeeze(), *steps]))
        shapes.append(shape)
        shape = _staying(shape) if config.split_prior else shape
    if not config.split_prior:
        return [*scales, Reshape.flatten(shapes[-1])]
    priors = [_split_prior(config, split) for split in shapes[:-1]]
    return [Multiscale(scales, shapes, priors)]


def _step(config: FlowConfig, shape: Shape) -> Iterator[Bijection]:
    yield from actnorm_layers(config, shape[0])
    yield linear_layer(config, shape)
    yield from activation_layers(config, shape)
    yield from mixing_layers(config, shape[0])
    yield from coupling_layers(config, shape[0])


def _cnn(config: FlowConfig, shape: Shape) -> list[Bijection]:
    """Blocks of convolutions, squeezes between them, no activation after the last."""
    _require_halvings(shape, config.num_blocks - 1)
    layers: list[Bijection] = []
    for block in range(config.num_blocks):
        if block:
            layers.append(Squeeze())
            shape = _squeezed(shape)
        for step in range(config.block_size):
            layers.append(linear_layer(config, shape))
            if (block + 1, step + 1) != (config.num_blocks, config.block_size):
                layers.extend(activation_layers(config, shape))
    return [*layers, Reshape.flatten(shape)]


def _fully_connected(config: FlowConfig, shape: Shape) -> list[Bijection]:
    """As many linear layers as steps in all blocks."""
    size, count = math.prod(shape), config.num_blocks * config.block_size
    layers: list[Bijection] = [Reshape.flatten(shape), linear_layer_of_vectors(config, size)]
    for _ in range(count - 1):
        layers.extend(activation_layers(config, (size,)))
        layers.append(linear_layer_of_vectors(config, size))
    return layers


def _split_prior(config: FlowConfig, shape: Shape) -> Bijection:
    staying = _staying(shape)[0]
    return SplitPrior.convolutional(staying, shape[0] - staying, config.coupling_width)


def _squeezed(shape: Shape) -> Shape:
    channels, height, width = shape
    return 4 * channels, height // 2, width // 2


def _staying(shape: Shape) -> Shape:
    """What stays after half of the channels have left."""
    channels, height, width = shape
    return channels - channels // 2, height, width


def _require_halvings(shape: Shape, count: int) -> None:
    if shape[1] % 2**count or shape[2] % 2**count:
        raise ValueError(
            f"num_blocks: images of {shape[1]}x{shape[2]} cannot be halved {count} times"
        )


_ARCHITECTURES: dict[Architecture, Callable[[FlowConfig, Shape], list[Bijection]]] = {
    "glow": _glow,
    "cnn": _cnn,
    "fully-connected": _fully_connected,
}
