"""The dense Jacobian against autograd, sample by sample."""

import inspect
from typing import Any, cast

import pytest
import torch
from flow_core.blocks import Residual
from flow_core.jacobian import jacobian
from flow_core.layers import Affine, LogitTransform, SplitPrior, Squeeze
from flow_core.maps import DenseNet


def coupled() -> SplitPrior:
    layer = SplitPrior.dense(3, 4, 6).double()
    for i, p in enumerate(layer.parameters()):
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(i))
    return layer


@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_chunks_do_not_change_the_matrix(chunk: int | None, batch: int) -> None:
    x = torch.rand(batch, 2, 2, dtype=torch.float64)
    matrix = jacobian(LogitTransform(0.05), x, chunk=chunk)
    s = 0.05 + 0.9 * x.flatten(1)
    assert torch.allclose(matrix, torch.diag_embed(0.9 / (s * (1 - s))), rtol=1e-12)


def test_rows_are_outputs_and_columns_inputs() -> None:
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    matrix = jacobian(Squeeze(2), x)
    assert torch.equal(matrix, torch.eye(4, dtype=torch.float64).expand(2, 4, 4))

    layer = coupled()
    h = torch.randn(2, 3, dtype=torch.float64)
    forward = jacobian(layer, torch.randn(2, 4, dtype=torch.float64), context=h)
    inverse = jacobian(
        layer, torch.randn(2, 4, dtype=torch.float64), direction="inverse", context=h, chunk=2
    )
    identity = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    assert torch.allclose(forward @ inverse, identity, atol=1e-12)
    assert not torch.allclose(forward[0], forward[1])


def test_one_pass_per_chunk() -> None:
    layer = Affine((6,)).double()
    calls: list[int] = []
    layer.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    jacobian(layer, torch.randn(5, 6, dtype=torch.float64), chunk=4)
    assert calls == [20, 10]


def test_works_under_no_grad_and_leaves_no_gradients() -> None:
    layer = Affine((3,))
    with torch.no_grad():
        matrix = jacobian(layer, torch.zeros(2, 3))
    assert torch.equal(matrix, torch.eye(3).expand(2, 3, 3))
    assert not matrix.requires_grad
    assert all(p.grad is None for p in layer.parameters())


def test_half_precision_and_inference_mode_around_change_nothing() -> None:
    torch.manual_seed(0)
    block = Residual(DenseNet(6, growth=8, depth=2))
    x = torch.randn(3, 6)
    expected = jacobian(block, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(jacobian(block, x), expected)
    with torch.inference_mode():
        assert torch.equal(jacobian(block, x.clone()), expected)


def test_an_unknown_direction_is_refused() -> None:
    unchecked = inspect.unwrap(jacobian)  # as it is without the type checks of the tests
    with pytest.raises(ValueError, match="expected direction"):
        unchecked(Affine((3,)), torch.zeros(2, 3), direction=cast(Any, "forward"))


def test_bad_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="positive chunk"):
        jacobian(Affine((3,)), torch.zeros(2, 3), chunk=0)
