"""Values: the CPU path and the reference against the formula, and every kind of input."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flow_kernels import (
    CPILA_LIPSCHITZ,
    cpila,
    cpila_curvature,
    cpila_slope,
    cpila_with_slope,
)
from flow_kernels.cpila import cpu, reference
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

OPERATIONS: list[Callable[..., Tensor]] = [cpila, cpila_slope, cpila_curvature]


def oracle(x: Array, order: int, dim: int = -1) -> Array:
    """The formula, one derivative at a time, written out for k = 5."""

    def p(w: Array) -> Array:
        t = np.clip(w, -1e3, 0.0)
        above = [w, np.ones_like(w), np.zeros_like(w), np.zeros_like(w)][order]
        below = [
            12.5 * t**3 - 5 * t**2 + t,
            62.5 * t**3 + 12.5 * t**2 - 5 * t + 1,
            312.5 * t**3 + 250 * t**2,
            1562.5 * t**3 + 2187.5 * t**2 + 500 * t,
        ][order]
        return np.where(w > 0, above, below * np.exp(5 * t))

    return np.concatenate([p(x - 0.2), (-1) ** order * p(-x - 0.2)], axis=dim) / 1.06


def sample(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("implementation", [cpu.derivatives, reference.derivatives])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 4e-15)])
def test_all_orders_against_the_formula(
    implementation: Callable[..., tuple[Tensor, ...]], dtype: torch.dtype, tolerance: float
) -> None:
    x = torch.linspace(-4, 4, 4001, dtype=dtype).view(-1, 1)
    for order, y in enumerate(implementation(x, -1, 0, 4)):
        expected = oracle(x.double().numpy(), order)
        error = np.abs(y.double().numpy() - expected).max()
        assert error <= tolerance * np.abs(expected).max(), order


@pytest.mark.parametrize("shape", [(5,), (7, 3), (2, 3, 4), (2, 3, 4, 5), (2, 1, 3, 2, 2)])
def test_every_dimension(shape: tuple[int, ...]) -> None:
    x = sample(*shape)
    for dim in range(-len(shape), len(shape)):
        for order, operation in enumerate(OPERATIONS):
            np.testing.assert_allclose(
                operation(x, dim).numpy(), oracle(x.numpy(), order, dim), rtol=0, atol=1e-14
            )


def test_value_with_slope_is_both() -> None:
    x = sample(6, 4)
    value, slope = cpila_with_slope(x)
    assert torch.equal(value, cpila(x))
    assert torch.equal(slope, cpila_slope(x))


@pytest.mark.parametrize("shape", [(11, 7), (3, 4, 5), (1, 40), (40, 1)])
@pytest.mark.parametrize("limit", [1, 3, 16, 64])
def test_blocks_cover_everything_once(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], limit: int
) -> None:
    x, g = sample(*shape), sample(*shape[:1], 2 * shape[1], *shape[2:], seed=1)
    whole = cpu.derivatives(x, 1 - len(shape), 0, 2)
    pulled = cpu.pullback(x, 1 - len(shape), 0, (g, g))
    monkeypatch.setattr(cpu, "_BLOCK_BYTES", 16 * limit)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for y, expected in zip(cpu.derivatives(x, 1 - len(shape), 0, 2), whole, strict=True):
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(
        cpu.pullback(x, 1 - len(shape), 0, (g, g)), pulled, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (2, 0, 4)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    for operation in OPERATIONS:
        y = operation(x)
        assert y.shape == (*shape[:-1], 2 * shape[-1])
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert grad.shape == shape


def test_non_contiguous_input_and_gradient() -> None:
    base = sample(4, 6, 5, 3)
    views = [base.transpose(1, 3), base[:, ::2], base.to(memory_format=torch.channels_last)]
    views.append(base[:1].expand(3, -1, -1, -1))
    for view in views:
        x = view.detach().requires_grad_()
        y = cpila(x, 1)
        torch.testing.assert_close(y, cpila(x.detach().clone().contiguous(), 1))
        g = sample(*reversed(y.shape), seed=1).permute(3, 2, 1, 0)
        (grad,) = torch.autograd.grad(y, x, g)
        expected = reference.pullback(x.detach(), -3, 0, (g,))
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_extreme_arguments(dtype: torch.dtype, operation: Callable[..., Tensor]) -> None:
    top = torch.finfo(dtype).max
    magnitudes = torch.tensor([20.0, 100.0, 6e4, top], dtype=dtype)
    x = torch.cat((-magnitudes, magnitudes)).view(-1, 1).requires_grad_()
    order = OPERATIONS.index(operation)
    y = operation(x)
    expected = torch.from_numpy(oracle(x.detach().double().numpy(), order)).to(dtype)
    torch.testing.assert_close(y, expected, rtol=torch.finfo(dtype).eps, atol=1e-30)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    slope = torch.from_numpy(oracle(x.detach().double().numpy(), order + 1)).sum(-1, keepdim=True)
    torch.testing.assert_close(grad, slope.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-30)
    (second,) = torch.autograd.grad(grad.sum(), x)
    assert second.isfinite().all()


def test_infinity() -> None:
    x = torch.tensor([[math.inf], [-math.inf]])
    value, slope = cpila_with_slope(x)
    assert value.tolist() == [[math.inf, 0.0], [0.0, math.inf]]
    one = 1 / torch.tensor(1.06)
    torch.testing.assert_close(slope, torch.stack((one, -one)) * torch.eye(2))


def test_kink_positions() -> None:
    # At ±0.2 one argument is exactly 0 in float64 (0.2 − 0.2): the slope there is 1, not 1/2 or 0.
    x = torch.tensor([[0.2], [-0.2]], dtype=torch.float64, requires_grad=True)
    y = cpila(x)
    slope = cpila_slope(x.detach())
    assert math.isclose(slope[0, 0].item(), 1 / 1.06, rel_tol=1e-15)
    assert math.isclose(slope[1, 1].item(), -1 / 1.06, rel_tol=1e-15)
    (grad,) = torch.autograd.grad(y[0, 0] + y[1, 1], x)
    torch.testing.assert_close(grad.flatten(), torch.stack((slope[0, 0], slope[1, 1])))


def test_nan_stays_in_its_element() -> None:
    x = torch.zeros(3, 2)
    x[1, 0] = math.nan
    for operation in OPERATIONS:
        assert operation(x).isnan().tolist() == [[False] * 4, [True, False] * 2, [False] * 4]


@pytest.mark.parametrize(("dtype", "eps"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_rounded_once(dtype: torch.dtype, eps: float) -> None:
    x = torch.linspace(-3, 3, 601).to(dtype).view(-1, 1)
    for order, y in enumerate((*cpila_with_slope(x), cpila_curvature(x))):
        assert y.dtype == dtype
        expected = oracle(x.double().numpy(), order)
        bound = 1.01 * eps * np.abs(expected) + 2e-6
        assert (np.abs(y.double().numpy() - expected) <= bound).all()


def test_autocast_leaves_dtypes_alone() -> None:
    x = sample(4, 3).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value, slope = cpila_with_slope(x)
        half = cpila(x.detach().bfloat16())
    assert value.dtype == slope.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(value, cpila(x))
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert grad.dtype == torch.float32


def test_inference_mode_then_training() -> None:
    with torch.inference_mode():
        cpila(sample(2, 2))
    x = sample(2, 2).requires_grad_()
    torch.autograd.backward(cpila(x).sum())
    assert x.grad is not None


def test_meta_tensors_have_the_right_shape() -> None:
    value, slope = cpila_with_slope(torch.empty(2, 3, 4, device="meta"), 1)
    assert value.shape == slope.shape == (2, 6, 4)


def test_input_is_not_changed_and_output_is_not_shared() -> None:
    x = sample(3, 4)
    before = x.clone()
    first, second = cpila(x), cpila(x)
    first.zero_()
    assert torch.equal(x, before)
    assert torch.equal(second, cpila(x))


def column_norms(x: Array) -> Array:
    slopes = oracle(x[:, None], 1) * 1.06
    return np.hypot(slopes[:, 0], slopes[:, 1])


def test_lipschitz_constant_is_proven_and_attained() -> None:
    """Where |x| ≥ .2 one slope is 1, and |p'| ≤ 19e⁻⁴ below 0: p'' vanishes only at −.8 and 0.

    In between, the derivative of the sum of squares is at most 4·sup|p''| < 12.6, so that a grid
    of spacing h misses at most 12.6·h/2 of it.
    """
    bound_squared = (CPILA_LIPSCHITZ * 1.06) ** 2
    h = 1e-5
    inner = column_norms(np.arange(-0.2, 0.2 + h, h)) ** 2
    assert inner.max() + 12.6 * h / 2 < bound_squared
    outer = column_norms(np.linspace(0.2, 12, 100_001))
    assert outer.max() / 1.06 <= CPILA_LIPSCHITZ
    assert column_norms(np.array([0.6, -0.6])) / 1.06 == pytest.approx(CPILA_LIPSCHITZ, rel=1e-15)
    assert pytest.approx(0.998888, abs=5e-7) == CPILA_LIPSCHITZ
    assert inner.min() >= 1.0 - 1e-12


def test_slope_never_exceeds_the_lipschitz_constant() -> None:
    x = torch.linspace(-3, 3, 60_001)[:, None]
    norms = cpila_slope(x).double().square().sum(-1).sqrt()
    assert norms.max() <= CPILA_LIPSCHITZ * (1 + 1e-6)


@pytest.mark.usefixtures("unchecked")
def test_errors_name_what_was_expected() -> None:
    operations: list[Callable[..., object]] = [*OPERATIONS, cpila_with_slope]
    for operation in operations:
        with pytest.raises(
            ValueError, match=r"expected dim in \[-2, 2\) for shape \(3, 2\), got 2"
        ):
            operation(torch.zeros(3, 2), 2)
        with pytest.raises(ValueError, match="expected dim"):
            operation(torch.zeros(()))
        with pytest.raises(ValueError, match=r"floating point tensor, got torch\.int64"):
            operation(torch.zeros(3, dtype=torch.int64))
