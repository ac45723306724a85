"""One builder makes the flows that two builders made: names, numbers and their order.

The expected layers are the assemblies that were replaced, kept as they were: trained states and
seeds of experiments depend on every name and on the order of random numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

import pytest
import torch
from flow_core.bijection import Bijection
from flow_core.blocks import Monotone, Residual
from flow_core.combinators import Chain, Multiscale
from flow_core.layers import ActNorm, LogitTransform, Reshape, SplitPrior, Squeeze
from flow_core.maps import DenseNet
from flow_core.models import ContractiveConfig, FlowConfig, image_flow
from flow_core.models.layers import (
    activation_layers,
    actnorm_layers,
    coupling_layers,
    linear_layer_of_vectors,
    linear_layers,
    mixing_layers,
)
from torch import Tensor, nn

Shape = tuple[int, int, int]
SMALL = FlowConfig(block_size=2, coupling_width=4, mixing="shuffle", activation="spline")
FEW = ContractiveConfig(scales=(1, 2), growth=4, depth=1, dense_blocks=1, dense_growth=4)


def squeezed(shape: Shape) -> Shape:
    return 4 * shape[0], shape[1] // 2, shape[2] // 2


def step(config: FlowConfig, shape: Shape) -> Iterator[Bijection]:
    yield from actnorm_layers(config, shape[0])
    yield from linear_layers(config, shape)
    yield from activation_layers(config, shape)
    yield from mixing_layers(config, shape[0])
    yield from coupling_layers(config, shape)


def old_glow(config: FlowConfig, shape: Shape) -> list[Bijection]:
    scales: list[Bijection] = []
    shapes: list[Shape] = []
    for _ in range(config.num_blocks):
        shape = squeezed(shape)
        steps = [layer for _ in range(config.block_size) for layer in step(config, shape)]
        scales.append(Chain([Squeeze(), *steps]))
        shapes.append(shape)
        stays = shape[0] - shape[0] // 2
        shape = (stays, *shape[1:]) if config.split_prior else shape
    if not config.split_prior:
        return [*scales, Reshape.flatten(shapes[-1])]
    halves = [(c - c // 2, c // 2) for c, _, _ in shapes[:-1]]
    priors = [SplitPrior.convolutional(*both, config.coupling_width) for both in halves]
    return [Multiscale(scales, shapes, priors)]


def old_cnn(config: FlowConfig, shape: Shape) -> list[Bijection]:
    layers: list[Bijection] = []
    for block in range(config.num_blocks):
        if block:
            layers.append(Squeeze())
            shape = squeezed(shape)
        for i in range(config.block_size):
            layers.extend(linear_layers(config, shape))
            if (block + 1, i + 1) != (config.num_blocks, config.block_size):
                layers.extend(activation_layers(config, shape))
    return [*layers, Reshape.flatten(shape)]


def old_fully_connected(config: FlowConfig, shape: Shape) -> list[Bijection]:
    size, count = prod(shape), config.num_blocks * config.block_size
    layers: list[Bijection] = [Reshape.flatten(shape), linear_layer_of_vectors(config, size)]
    for _ in range(count - 1):
        layers.extend(activation_layers(config, (size,)))
        layers.append(linear_layer_of_vectors(config, size))
    return layers


def old_contractive(config: ContractiveConfig, shape: Shape) -> Iterator[Bijection]:
    c, h, w = shape
    yield ActNorm(c)
    for scale, blocks in enumerate(config.scales):
        if scale:
            yield Squeeze(2)
            c, h, w = 4 * c, h // 2, w // 2
        for _ in range(blocks):
            yield old_block(config, c, config.growth, (h, w))
            yield ActNorm(c)
    yield Reshape((c, h, w), (c * h * w,))
    for _ in range(config.dense_blocks):
        yield old_block(config, c * h * w, config.dense_growth, None)
        yield ActNorm(c * h * w)


def old_block(
    config: ContractiveConfig, channels: int, growth: int, map_size: tuple[int, int] | None
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
    return (Monotone if config.block == "monotone" else Residual)(net)


def old_layers(config: FlowConfig | ContractiveConfig, shape: Shape) -> list[Bijection]:
    if isinstance(config, ContractiveConfig):
        return list(old_contractive(config, shape))
    makers = {"glow": old_glow, "cnn": old_cnn, "fully-connected": old_fully_connected}
    return makers[config.architecture](config, shape)


def made(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    """A model of a seed, and the random number that comes next."""
    torch.manual_seed(7)
    return make(), torch.rand(())


def cases() -> list[tuple[FlowConfig | ContractiveConfig, Shape]]:
    return [
        (FlowConfig(coupling_width=8), (1, 8, 8)),
        (SMALL, (3, 8, 4)),
        (replace(SMALL, split_prior=False), (1, 4, 4)),
        (replace(SMALL, num_blocks=1), (1, 4, 4)),
        (replace(SMALL, num_blocks=3, linear="emerging", mixing="lu"), (1, 8, 8)),
        (replace(SMALL, architecture="cnn", linear="exact"), (2, 4, 4)),
        (replace(SMALL, architecture="cnn", linear="self-normalizing", num_blocks=3), (1, 4, 8)),
        (replace(SMALL, architecture="fully-connected", linear="self-normalizing"), (1, 3, 3)),
        (ContractiveConfig(), (1, 8, 8)),
        (FEW, (3, 4, 6)),
        (replace(FEW, block="residual", scales=(1,), alpha=0.0, activation="clipswish"), (1, 3, 3)),
        (replace(FEW, dense_blocks=0, scales=(1, 1, 1)), (1, 4, 4)),
    ]


@pytest.mark.parametrize(("config", "shape"), cases())
def test_states_are_those_of_the_assemblies_before(
    config: FlowConfig | ContractiveConfig, shape: Shape
) -> None:
    flow, next_number = made(lambda: image_flow(config, shape))
    logit = LogitTransform(config.alpha)
    chain, expected_number = made(lambda: Chain([logit, *old_layers(config, shape)]))
    found, expected = flow.state_dict(), chain.state_dict(prefix="bijection.")
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert next_number == expected_number
    kinds = {f"bijection.{name}": type(m) for name, m in chain.named_modules() if name}
    assert {name: type(m) for name, m in flow.named_modules() if name in kinds} == kinds
