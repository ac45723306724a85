"""Bijections keep the precision of their input where autocast would lower it, and widen half."""

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual
from flow_core.distributions import Flow
from flow_core.layers import ActNorm, SelfNormConv2d, TrainingSurrogate
from flow_core.maps import DenseNet
from flow_core.models import FlowConfig, image_flow
from flow_core.settings import Settings
from flow_logdet import Fixed, Krylov, Recompute
from torch import Tensor


def image_net() -> DenseNet:
    return DenseNet(2, growth=4, depth=1, map_size=(3, 3))


Build = Callable[[Callable[[], DenseNet]], Bijection]

BLOCKS: dict[str, Build] = {
    "residual": lambda net: Residual(net()),
    "monotone": lambda net: Monotone(net()),
    "implicit": lambda net: Implicit(net(), net()),
}


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("kind", BLOCKS)
def test_round_trip_under_autocast(kind: str, vector: bool) -> None:
    torch.manual_seed(0)
    block = BLOCKS[kind](lambda: DenseNet(5, growth=4, depth=1) if vector else image_net())
    x = torch.randn(4, 5) if vector else torch.randn(4, 2, 3, 3)
    block.eval()  # exact log-determinants
    y, log_det = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, got_log_det = block(x)
        again, back = block.inverse_and_log_det(got)
    torch.testing.assert_close(got, y, rtol=0, atol=2e-5)
    torch.testing.assert_close(got_log_det, log_det, rtol=0, atol=1e-5)
    torch.testing.assert_close(again, x, rtol=0, atol=2e-5)  # bfloat16 would leave 5e-3
    torch.testing.assert_close(back, -log_det, rtol=0, atol=1e-4)


def gradients(loss: Callable[[], Tensor], layer: Bijection, *, half: bool) -> Tensor:
    """Gradients by all parameters, with the backward pass inside autocast too."""
    layer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        torch.autograd.backward(loss())
    return torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None])


def test_recomputed_gradients_are_exact_under_autocast() -> None:
    torch.manual_seed(0)
    block = Residual(image_net())
    x, probe = torch.randn(4, 2, 3, 3), Fixed(torch.randn(1, 4, 2, 3, 3))

    using = Settings(estimator=Recompute(Krylov(probe=probe)))

    def loss() -> Tensor:
        return block(x, using=using)[1].sum()

    exact, found = (gradients(loss, block, half=half) for half in (False, True))
    torch.testing.assert_close(found, exact)


def test_gradients_of_a_surrogate_are_exact_under_autocast() -> None:
    torch.manual_seed(0)
    layer = SelfNormConv2d(2, 3, (3, 3))
    model = TrainingSurrogate(Flow(StandardNormal((2, 3, 3)), layer))
    x = torch.randn(4, 2, 3, 3)

    def loss() -> Tensor:
        return model(x).surrogate.sum()

    exact, found = (gradients(loss, layer, half=half) for half in (False, True))
    torch.testing.assert_close(found, exact)


def test_a_list_is_refused_by_name() -> None:
    block: Any = Residual(image_net())
    with pytest.raises(TypeError, match="expected a tensor, got list"):
        unwrap(Bijection.forward)(block, [[1.0]])


def test_a_block_without_memory_has_shapes() -> None:
    block = Residual(DenseNet(2, growth=4, depth=1)).to("meta")
    assert block.transform(torch.zeros(3, 2, device="meta")).shape == (3, 2)


def test_a_deep_chain_of_couplings_inverts_under_autocast() -> None:
    """One layer sees the same still half again; the next ones see it with an error."""
    torch.manual_seed(0)
    config = FlowConfig(linear="conv1x1", coupling_width=16, actnorm=False)
    flow = image_flow(config, (3, 8, 8))
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.03 * torch.randn_like(p))
    x = 0.1 + 0.8 * torch.rand(4, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = flow.bijection(x)
        again, back = flow.bijection.inverse_and_log_det(z)
    torch.testing.assert_close(again, x, rtol=0, atol=2e-5)
    torch.testing.assert_close(back, -log_det, rtol=0, atol=5e-3)


def tensors(result: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


@pytest.mark.parametrize("dtype", [torch.float32], ids=["float32"])
def test_half_precision_is_widened_under_autocast(
    bijection: Bijection, x: Tensor, context: Tensor | None
) -> None:
    """As after a convolution that autocast has rounded: computed as if given in float32."""
    half, h = x.bfloat16(), None if context is None else context.bfloat16()
    wide = None if h is None else h.float()
    y = bijection.transform(half.float(), context=wide).bfloat16()
    calls: list[tuple[Callable[..., Tensor | tuple[Tensor, Tensor]], Tensor]] = [
        (bijection.transform, half),
        (bijection, half),
        (bijection.inverse, y),
        (bijection.inverse_and_log_det, y),
    ]
    for method, point in calls:
        expected = tensors(method(point.float(), context=wide))
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            got = tensors(method(point, context=h))
        assert [t.dtype for t in got] == [torch.float32] * len(expected)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_statistics_of_half_precision_are_those_of_float32() -> None:
    """In bfloat16 not even the number of values would be exact."""
    x = (3 + torch.randn(301, 2, generator=torch.Generator().manual_seed(0))).bfloat16()
    layer, other = ActNorm(2), ActNorm(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer.initialize(x)
    assert torch.equal(got, other.initialize(x.float()))


def test_without_autocast_half_precision_is_not_converted() -> None:
    layer = ActNorm(2).bfloat16()
    assert layer.initialize(torch.randn(8, 2).bfloat16()).dtype == torch.bfloat16
