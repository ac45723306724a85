"""Binding the maps of a model at once: the same numbers, never stale, few operations."""

from collections.abc import Sequence
from typing import Any

import torch
from flow_core import Chain, DenseNet, FeedForwardNet, Monotone, Pass, Residual
from flow_core.maps.together import bound_together
from torch import Tensor
from torch.autograd import grad
from torch.utils._python_dispatch import TorchDispatchMode


class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as torch has it
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as torch has it
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def nets(count: int, **settings: Any) -> list[DenseNet]:
    torch.manual_seed(0)
    return [DenseNet(2, growth=4, depth=2, **settings).double() for _ in range(count)]


def points() -> Tensor:
    return torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_chain_is_its_blocks_one_after_the_other() -> None:
    maps = [*nets(2), *nets(1, activation="clipswish"), FeedForwardNet(2, [4]).double()]
    blocks = [Monotone(maps[0]), Residual(maps[2]), Monotone(maps[1]), Residual(maps[3])]
    chain, x = Chain(blocks), points()
    y, log_det = chain(x)
    expected, total = x, torch.zeros(5, dtype=torch.float64)
    for block in blocks:
        expected, term = block(expected)
        total = total + term
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det, total, rtol=0, atol=1e-12)
    parameters = list(chain.parameters())
    together = grad((y.square().sum() + log_det.sum()), parameters, materialize_grads=True)
    apart = grad((expected.square().sum() + total.sum()), parameters, materialize_grads=True)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_changed_parameters_are_seen_at_once() -> None:
    (net,) = nets(1)
    chain, x = Chain([Residual(net)]), points()
    before = chain.transform(x)
    with torch.no_grad():
        net.concat.add_(1.0)
    assert not torch.equal(chain.transform(x), before)


def test_a_block_that_comes_twice_is_bound_once() -> None:
    (net,) = nets(1)
    block, x = Residual(net), points()
    torch.testing.assert_close(
        Chain([block, block]).transform(x), block.transform(block.transform(x))
    )


def test_a_graph_is_there_where_it_is_wanted() -> None:
    (net,) = nets(1)
    with torch.no_grad():
        how = Pass(begun=True).holding(bound_together([net], {}))
        assert not how.bind(net)(points()).requires_grad
        with torch.enable_grad():
            assert how.bind(net)(points()).requires_grad
    how = Pass(begun=True).holding(bound_together([net], {}))
    assert how.bind(net)(points()).requires_grad
    with torch.no_grad():
        assert not how.bind(net)(points()).requires_grad


def test_equal_nets_share_their_operations() -> None:
    few, many = nets(2), nets(12)
    counts = [Count(), Count()]
    for maps, count in zip((few, many), counts, strict=True):
        with count:
            bound_together(maps, {})
    alone = Count()
    with alone:
        many[0].bind()
    assert counts[1].operations == counts[0].operations
    assert counts[1].operations < 2 * alone.operations
