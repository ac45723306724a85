"""Models without memory, and models that take their numbers from a state afterwards."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from flow_core.base import BaseDistribution, StandardNormal
from flow_core.bijection import Bijection
from flow_core.combinators import Chain
from flow_core.dequantization import Dequantized, UniformDequantizer
from flow_core.distributions import Flow
from flow_core.initialization import initialize
from flow_core.layers import Affine, LogitTransform
from flow_core.lipschitz import update_lipschitz
from flow_core.models import (
    ContractiveConfig,
    DequantizerConfig,
    FlowConfig,
    image_dequantizer,
    image_flow,
)
from flow_core.models.config import ActivationName, CouplingKind, Linear, Mixing
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

SHAPE = (1, 4, 4)
SMALL = FlowConfig(block_size=1, coupling_width=4)
FEW = ContractiveConfig(scales=(1, 1), growth=4, depth=1, dense_blocks=1, dense_growth=4)

single = pytest.mark.parametrize("dtype", [torch.float32], ids=["float32"])


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def is_without_memory(model: nn.Module) -> bool:
    return all(t.is_meta for t in (*model.parameters(), *model.buffers()))


def take_state(model: nn.Module, source: nn.Module) -> None:
    """Memory full of NaN, or of ones, then a state: what it leaves out would be noticed."""
    model.to_empty(device="cpu")
    for t in (*model.parameters(), *model.buffers()):
        t.data.fill_(math.nan if t.is_floating_point() else True)
    model.load_state_dict(source.state_dict())


def assign_state(model: nn.Module, source: nn.Module) -> None:
    """Take the tensors of a state themselves: no memory is made before."""
    model.load_state_dict(source.state_dict(), assign=True)


both_ways = pytest.mark.parametrize("take", [take_state, assign_state])


def parameters(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


@single
def test_every_bijection_can_be_made_without_memory(
    bijection: Bijection, on_meta: Bijection
) -> None:
    assert is_without_memory(on_meta)
    assert parameters(on_meta) == parameters(bijection)
    assert on_meta.state_dict().keys() == bijection.state_dict().keys()


@single
@both_ways
@pytest.mark.cases("stateful")
def test_a_state_makes_it_compute_what_the_original_does(
    bijection: Bijection,
    on_meta: Bijection,
    x: Tensor,
    context: Tensor | None,
    take: Callable[[nn.Module, nn.Module], None],
) -> None:
    take(on_meta, bijection)
    y, log_det = bijection(x, context=context)
    for found, expected in zip(on_meta(x, context=context), (y, log_det), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found = on_meta.inverse(y, context=context)
    torch.testing.assert_close(found, bijection.inverse(y, context=context), rtol=0, atol=0)


def image_models() -> list[FlowConfig | ContractiveConfig]:
    return [
        *(FlowConfig(block_size=1, coupling_width=4, linear=n) for n in get_args(Linear)),
        *(FlowConfig(block_size=1, coupling_width=4, mixing=n) for n in get_args(Mixing)),
        *(
            FlowConfig(block_size=1, coupling_width=4, activation=n, linear="conv1x1")
            for n in get_args(ActivationName)
        ),
        *(FlowConfig(block_size=1, coupling_width=4, coupling=n) for n in get_args(CouplingKind)),
        FlowConfig(architecture="cnn", linear="self-normalizing", block_size=1),
        FlowConfig(architecture="fully-connected", linear="self-normalizing", block_size=1),
        FEW,
        ContractiveConfig(block="residual", scales=(1, 1), growth=4, factor_out=True),
    ]


@both_ways
@pytest.mark.parametrize("config", image_models())
def test_models_of_integer_images_take_their_numbers_from_a_state(
    config: FlowConfig | ContractiveConfig, take: Callable[[nn.Module, nn.Module], None]
) -> None:
    def make() -> Dequantized:
        return Dequantized(image_flow(config, SHAPE), UniformDequantizer(), 8).eval()

    torch.manual_seed(0)
    original, other = make(), on_meta(make)
    images = torch.randint(0, 8, (30, *SHAPE))
    initialize(original, images)
    assert is_without_memory(other)
    assert parameters(other) == parameters(original)
    take(other, original)
    bounds = []
    for model in (original, other):
        torch.manual_seed(1)
        bounds.append(model(images[:3]))
    torch.testing.assert_close(bounds[1], bounds[0], rtol=0, atol=0)


@both_ways
def test_noise_models_take_their_numbers_from_a_state(
    take: Callable[[nn.Module, nn.Module], None],
) -> None:
    def make() -> Dequantized:
        noise = DequantizerConfig(kind="variational", width=4)
        flow = image_flow(SMALL, SHAPE)
        return Dequantized(flow, image_dequantizer(noise, SHAPE, 8), 8).eval()

    original, other = make(), on_meta(make)
    images = torch.randint(0, 8, (30, *SHAPE))
    initialize(original, images)
    assert is_without_memory(other)
    take(other, original)
    noise = torch.rand(images.shape)
    found, expected = other(images, noise=noise), original(images, noise=noise)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@both_ways
def test_a_base_keeps_its_temperature_and_place(
    take: Callable[[nn.Module, nn.Module], None],
) -> None:
    def make() -> Flow:
        return Flow(StandardNormal((3,), temperature=0.5), Affine((3,)))

    original, other = make(), on_meta(make)
    take(other, original)
    x = torch.randn(2, 3)
    torch.testing.assert_close(other(x), original(x), rtol=0, atol=0)
    assert isinstance(other, Flow)
    assert other.sample((4,)).device == x.device


def test_a_number_outside_the_state_is_noticed() -> None:
    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    original, twin = Twin(), on_meta(Twin)
    take_state(twin, original)
    assert not torch.equal(twin.get_buffer("scale"), original.get_buffer("scale"))


def test_parameters_of_large_flows_are_counted_without_memory() -> None:
    config = ContractiveConfig(scales=(16, 16, 16), growth=512, depth=3, dense_blocks=4)
    flow = on_meta(lambda: image_flow(config, (3, 32, 32)))
    update_lipschitz(flow)  # nothing to follow, and no error

    # Channels of the dense layers: c, c + 512, c + 1024; the last reads c + 1536.
    def block(c: int, growth: int, side: int) -> int:
        write = growth // 2
        dense = sum(write * ((c + i * growth) * side**2 + 1) for i in range(3))
        return dense + c * (c + 3 * growth + 1) + 6 + 2 * c

    images = sum(16 * block(c, 512, 3) for c in (3, 12, 48)) + 2 * 3
    total = images + 4 * block(3072, 32, 1)
    assert sum(p.numel() for p in flow.parameters()) == total


class Learned(nn.Module):
    """N(location, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.location = nn.Parameter(torch.ones(2))

    def forward(self) -> Distribution:
        one = torch.ones_like(self.location)
        return Independent(Normal(self.location, one, validate_args=False), 1, validate_args=False)


@pytest.mark.parametrize("base", [lambda: StandardNormal((2,)), Learned])
def test_a_base_follows_the_precision_of_a_state(
    base: Callable[[], BaseDistribution | nn.Module],
) -> None:
    def make() -> Dequantized:
        flow = Flow(base(), Chain([LogitTransform(0.05), Affine((2,))]))
        return Dequantized(flow, UniformDequantizer(), 2)

    state = make().double().state_dict()
    for model in (make(), on_meta(make)):
        assert isinstance(model, Dequantized)
        model.load_state_dict(state, assign=True)
        assert model.flow.base.dtype == torch.float64
        x = model.flow.sample((3,))
        assert x.dtype == torch.float64
        assert bool(model.flow.log_prob(x).isfinite().all())
        assert bool(model.log_prob_bound(model.sample((3,))).isfinite().all())
