"""Solves and linear solves whose numbers have squares that do not fit their dtype."""

import pytest
import torch
from flow_solvers import (
    Anderson,
    Broyden,
    FunctionMap,
    Newton,
    Picard,
    Solver,
    Status,
    Tangent,
    Tolerance,
    gmres,
    resolvent,
    samples,
)
from flow_solvers.krylov import arnoldi, golub_kahan
from torch import Tensor
from torch.nn.functional import linear

SCALES = [
    (torch.float64, 1e300),
    (torch.float64, 1e160),
    (torch.float64, 1e-160),
    (torch.float64, 1e-300),
    (torch.float32, 1e30),
    (torch.float32, 1e-30),
]
each_scale = pytest.mark.parametrize(("dtype", "scale"), SCALES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def contraction(dim: int, norm: float = 0.8) -> Tensor:
    raw = normal(dim, dim, seed=1)
    size: Tensor = torch.linalg.matrix_norm(raw, 2)
    return norm * raw / size


def exact(matrix: Tensor, x: Tensor) -> Tensor:
    eye = torch.eye(len(matrix), dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(eye + matrix.double(), x.double().mT)
    return solved.mT


@each_scale
@pytest.mark.parametrize("dim", [1, 2, 5, 16, 17, 200])
def test_a_solve_does_not_depend_on_the_scale(dim: int, dtype: torch.dtype, scale: float) -> None:
    matrix, x = contraction(dim).to(dtype), normal(6, dim).to(dtype)
    bound = FunctionMap(linear, (matrix,))
    plain, scaled = resolvent(bound, x), resolvent(bound, scale * x)
    assert scaled.calls == plain.calls
    rtol = 1e-6 if dtype == torch.float32 else 1e-10
    close = 100 * rtol * float(x.abs().max())
    found = scaled.value.double() / scale
    torch.testing.assert_close(found, exact(matrix, x), rtol=0, atol=close)
    # Two roundings of one residual; the scale is no power of two.
    torch.testing.assert_close(scaled.residual / scale, plain.residual, rtol=0.9, atol=rtol / 10)


@each_scale
@pytest.mark.parametrize(
    "solver", [Newton(), Broyden(memory=20), Anderson(), Anderson(period=1), Picard()]
)
def test_no_solver_loses_accuracy_or_steps(
    solver: Solver, dtype: torch.dtype, scale: float
) -> None:
    dim = 8
    matrix, x = contraction(dim).to(dtype), normal(40, dim).to(dtype)
    x[::2] *= scale  # the other half of the batch is no different for it
    bound = FunctionMap(linear, (matrix,))
    solution = solver.solve(bound, x, x, Tolerance())
    assert solution.all_converged
    plain = solver.solve(bound, x[1::2], x[1::2], Tolerance())
    alike = solver.solve(bound, x[::2] / scale, x[::2] / scale, Tolerance())
    assert solution.calls <= max(plain.calls, alike.calls) + 1
    relative = samples.norm(solution.value.double() - exact(matrix, x)) / samples.norm(x.double())
    assert float(relative.max()) < (1e-4 if dtype == torch.float32 else 1e-8)


@each_scale
def test_samples_of_all_scales_and_none_are_solved_beside_each_other(
    dtype: torch.dtype, scale: float
) -> None:
    matrix, x = contraction(200).to(dtype), normal(12, 200).to(dtype)
    x[:4] *= scale
    x[4] = 0
    x[5, 3] = torch.nan
    solution = resolvent(FunctionMap(linear, (matrix,)), x, on_failure="return")
    expected = [Status.CONVERGED] * 12
    expected[5] = Status.NONFINITE
    assert solution.status.tolist() == expected
    assert float(solution.value[4].abs().max()) == 0.0


@pytest.mark.parametrize("dim", [8, 200])
def test_an_absolute_tolerance_keeps_its_unit(dim: int) -> None:
    matrix, x = contraction(dim), 1e-130 * normal(6, dim)
    atol = 1e-134
    solution = resolvent(
        FunctionMap(linear, (matrix,)), x, tolerance=Tolerance(rtol=0.0, atol=atol)
    )
    worst = float(solution.residual.max())
    assert 1e-9 * atol < worst <= atol


@pytest.mark.parametrize("start", [0.0, 1e-200])
def test_a_sample_that_is_all_zero_is_solved_at_once(start: float) -> None:
    x = torch.full((3, 6), start, dtype=torch.float64)
    solution = resolvent(FunctionMap(lambda w: 0.0 * w), x)
    assert solution.calls == 1
    assert torch.equal(solution.value, x)


@pytest.mark.parametrize("dim", [0, 1, 3, 5, 3000])
@pytest.mark.parametrize("scale", [1e300, 1.0, 1e-300])
def test_norms_are_safe(dim: int, scale: float) -> None:
    rows = normal(7, dim)
    expected = torch.linalg.vector_norm(rows, dim=1)
    torch.testing.assert_close(samples.norm(scale * rows) / scale, expected)
    there = torch.from_numpy(samples.safe_lengths(scale * rows, rows))
    torch.testing.assert_close(
        there / torch.tensor([[scale], [1.0]], dtype=torch.float64), expected.expand(2, -1)
    )


def test_norms_of_what_is_not_finite_are_not_finite() -> None:
    rows = torch.ones(3, 6, dtype=torch.float64)
    rows[0, 1], rows[1, 1] = torch.inf, torch.nan
    found = samples.norm(rows)
    assert not bool(found[0].isfinite())
    assert bool(found[1].isnan())
    assert float(found[2]) == pytest.approx(6**0.5)


@each_scale
@pytest.mark.parametrize("dim", [2, 8, 20])
def test_gradients_do_not_depend_on_the_scale_either(
    dim: int, dtype: torch.dtype, scale: float
) -> None:
    matrix, x = contraction(dim).to(dtype), normal(6, dim).to(dtype).requires_grad_()
    along = normal(6, dim, seed=3).to(dtype)

    def gradient(scale: float) -> Tensor:
        leaf = (scale * x.detach()).requires_grad_()
        value = resolvent(FunctionMap(linear, (matrix,)), leaf).value
        return torch.autograd.grad(value, leaf, scale * along)[0] / scale

    torch.testing.assert_close(gradient(scale), gradient(1.0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float64, 1e130),
        (torch.float64, 1e-130),
        (torch.float32, 1e30),
        (torch.float32, 1e-30),
    ],
)
def test_krylov_spaces_of_operators_of_any_size(dtype: torch.dtype, scale: float) -> None:
    matrix, start = contraction(12).to(dtype), normal(2, 12).to(dtype)
    plain = arnoldi(lambda v: linear(v, matrix), start, 4)
    scaled = arnoldi(lambda v: linear(v, scale * matrix), start, 4)
    assert scaled.steps.tolist() == plain.steps.tolist()
    torch.testing.assert_close(scaled.hessenberg / scale, plain.hessenberg, rtol=1e-3, atol=1e-5)
    found = golub_kahan(
        lambda v: linear(v, scale * matrix), lambda v: linear(v, scale * matrix.mT), start, 12
    )
    largest = torch.linalg.svdvals((found.bidiagonal() / scale).double())[:, 0]
    torch.testing.assert_close(largest, torch.full_like(largest, 0.8), rtol=1e-4, atol=0)


@each_scale
def test_krylov_routines_take_start_vectors_of_any_size(dtype: torch.dtype, scale: float) -> None:
    matrix, start = contraction(12).to(dtype), normal(2, 12).to(dtype)
    plain, scaled = (arnoldi(lambda v: linear(v, matrix), s * start, 4) for s in (1.0, scale))
    torch.testing.assert_close(scaled.norm / scale, plain.norm)
    torch.testing.assert_close(scaled.hessenberg, plain.hessenberg, rtol=1e-4, atol=1e-5)
    matvec = Tangent(FunctionMap(linear, (matrix,)).linearize(start))
    ones, many = (gmres(matvec, s * start) for s in (1.0, scale))
    assert torch.equal(many.products, ones.products)
    torch.testing.assert_close(many.value / scale, ones.value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [1, 3, 5, 40])
@pytest.mark.filterwarnings("error")
def test_sizes_that_overflow_solve_nothing(dim: int) -> None:
    """Their tolerance is infinite, and any residual is below it."""
    x = torch.full((2, dim), 1.7e308, dtype=torch.float64)
    x[1] = 1.0
    solution = resolvent(FunctionMap(lambda w: -0.5 * w), x, on_failure="return")
    assert solution.converged.tolist() == [False, True]
