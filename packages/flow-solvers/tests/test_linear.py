import math
from collections.abc import Callable

import pytest
import torch
from flow_solvers import (
    AdjointSolver,
    Direct,
    FunctionMap,
    Gmres,
    Status,
    default_adjoint,
    gmres,
    solve_adjoint,
    solve_tangent,
)
from torch import Tensor


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64).to(dtype)


def shifts(batch: int, dim: int, norm: float, seed: int = 0) -> Tensor:
    raw = normal(batch, dim, dim, seed=seed)
    sizes: Tensor = torch.linalg.matrix_norm(raw, 2, keepdim=True)
    return norm * raw / sizes


class Operator:
    """I + J of given matrices; counts batched products and samples."""

    def __init__(self, shift: Tensor, counts: list[int] | None = None) -> None:
        self.matrix = shift
        self.counts = [] if counts is None else counts

    def __call__(self, vector: Tensor) -> Tensor:
        self.counts.append(vector.shape[0])
        return vector + torch.einsum("bij,bj->bi", self.matrix.to(vector.dtype), vector)

    def shift(self) -> Tensor:
        self.counts.extend([self.matrix.shape[0]] * self.matrix.shape[1])
        return self.matrix

    def select(self, index: Tensor) -> "Operator":
        return Operator(self.matrix[index], self.counts)


def length(rows: Tensor) -> Tensor:
    result: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return result


def error(operator: Operator, value: Tensor, rhs: Tensor) -> Tensor:
    """The relative residual, in float64."""
    exact = Operator(operator.matrix.double())
    return length(rhs.double() - exact(value.double())) / length(rhs.double())


@pytest.mark.parametrize("solver", [Direct(), Gmres(), Gmres(restart=5)])
@pytest.mark.parametrize("dim", [1, 2, 3, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_a_dense_solve(solver: AdjointSolver, dim: int, dtype: torch.dtype) -> None:
    operator, rhs = Operator(shifts(7, dim, 0.9).to(dtype)), normal(7, dim, dtype=dtype)
    solution = solver.solve(operator, rhs)
    assert solution.solvable
    assert float(error(operator, solution.value, rhs).max()) <= (
        1e-6 if dtype.itemsize == 4 else 1e-10
    )
    eye = torch.eye(dim, dtype=torch.float64)
    exact: Tensor = torch.linalg.solve(eye + operator.matrix.double(), rhs.double())
    tolerance = 2e-5 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(solution.value.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("solver", [Direct(), Gmres()])
def test_the_scale_of_the_right_hand_side_does_not_matter(solver: AdjointSolver) -> None:
    operator = Operator(shifts(6, 9, 0.95).float())
    rhs = normal(6, 9, dtype=torch.float32)
    counts = list[list[int]]()
    for scale in (1e-30, 1e-8, 1.0, 1e4, 1e30):
        solution = solver.solve(operator, scale * rhs)
        assert solution.solvable
        assert float(solution.residual.max()) <= 1e-6
        assert float(error(operator, solution.value.double() / scale, rhs).max()) <= 1.3e-6
        counts.append(solution.products.tolist())
    assert max(abs(a - b) for row in counts for a, b in zip(row, counts[0], strict=True)) <= 1


@pytest.mark.parametrize("solver", [Direct(), Gmres()])
def test_a_zero_right_hand_side_costs_nothing(solver: AdjointSolver) -> None:
    operator = Operator(shifts(3, 5, 0.9))
    nothing = solver.solve(operator, torch.zeros(3, 5, dtype=torch.float64))
    assert operator.counts == []
    assert nothing.products.tolist() == [0, 0, 0]
    assert float(nothing.value.abs().sum()) == float(nothing.residual.sum()) == 0.0
    assert nothing.solvable
    rhs = normal(3, 5)
    rhs[1] = 0
    some = solver.solve(operator, rhs)
    assert int(some.products[1]) == 0
    assert float(some.value[1].abs().sum()) == 0.0
    assert float(error(operator, some.value, rhs)[[0, 2]].max()) <= 1e-10


@pytest.mark.parametrize("solver", [Direct(), Gmres()])
def test_a_nan_stays_in_its_sample(solver: AdjointSolver) -> None:
    operator, rhs = Operator(shifts(4, 5, 0.9)), normal(4, 5)
    rhs[2, 0] = math.nan
    rhs[3, 1] = math.inf
    solution = solver.solve(operator, rhs)
    assert solution.status.tolist() == [0, 0, Status.NONFINITE, Status.NONFINITE]
    assert bool(solution.value[2:].isnan().all())
    assert float(error(operator, solution.value, rhs)[:2].max()) <= 1e-10
    assert solution.solvable


def test_gmres_needs_no_product_to_know_its_residual() -> None:
    operator, rhs = Operator(shifts(4, 60, 0.9)), normal(4, 60)
    solution = gmres(operator, rhs, rtol=1e-8)
    assert len(operator.counts) == int(solution.products.max())
    torch.testing.assert_close(solution.residual, error(operator, solution.value, rhs))


def test_gmres_on_known_operators() -> None:
    zero, rhs = torch.zeros(2, 8, 8, dtype=torch.float64), normal(2, 8)
    assert gmres(Operator(zero), rhs).products.tolist() == [1, 1]
    two = torch.diag(torch.tensor([0.5] * 4 + [-0.5] * 4, dtype=torch.float64)).expand(2, 8, 8)
    assert gmres(Operator(two), rhs).products.tolist() == [2, 2]
    full = gmres(Operator(shifts(2, 8, 0.99)), rhs, rtol=1e-13)
    assert int(full.products.max()) <= 8
    # A cyclic shift lets no residual fall before the last step: I + J of a permutation shifted.
    cycle = torch.eye(8, dtype=torch.float64).roll(1, 0) - torch.eye(8, dtype=torch.float64)
    unit = torch.eye(8, dtype=torch.float64)[:1]
    slow = gmres(Operator(cycle.unsqueeze(0)), unit, rtol=1e-10)
    assert slow.products.tolist() == [8]
    assert float(error(Operator(cycle.unsqueeze(0)), slow.value, unit)) < 1e-10


@pytest.mark.parametrize(
    ("kind", "most"), [("skew", 16), ("symmetric", 42), ("decaying", 27), ("random", 20)]
)
def test_products_on_known_spectra(kind: str, most: int) -> None:
    dim, norm = 256, 0.95
    basis, _ = torch.linalg.qr(normal(dim, dim, seed=7))
    raw = normal(dim, dim, seed=8)
    if kind == "symmetric":
        raw = basis @ torch.diag(torch.linspace(-1, 1, dim, dtype=torch.float64)) @ basis.mT
    if kind == "decaying":
        raw = -basis @ torch.diag(0.8 ** torch.arange(dim, dtype=torch.float64)) @ basis.mT
    raw = raw - raw.mT if kind == "skew" else raw
    size: Tensor = torch.linalg.matrix_norm(raw, 2)
    operator = Operator((norm * raw / size).expand(8, dim, dim))
    solution = gmres(operator, normal(8, dim), rtol=1e-6)
    assert solution.solvable
    assert int(solution.products.max()) <= most


def test_every_sample_stops_on_its_own() -> None:
    shift = torch.cat((shifts(3, 40, 0.05), shifts(1, 40, 0.97)))
    operator, rhs = Operator(shift), normal(4, 40)
    solution = gmres(operator, rhs, rtol=1e-9)
    easy, hard = solution.products[:3].max(), solution.products[3]
    assert int(easy) < int(hard) // 2
    assert float(error(operator, solution.value, rhs).max()) <= 1e-9
    for position in range(4):
        row = slice(position, position + 1)
        alone = gmres(Operator(shift[row]), rhs[row], rtol=1e-9)
        assert alone.products.tolist() == solution.products[row].tolist()
        torch.testing.assert_close(alone.value, solution.value[row], rtol=0, atol=1e-8)


def test_solved_samples_are_left_behind_between_cycles() -> None:
    shift = torch.cat((shifts(3, 40, 0.05), shifts(1, 40, 0.97)))
    operator, rhs = Operator(shift), normal(4, 40)
    solution = Gmres(restart=8, rtol=1e-9).solve(operator, rhs)
    assert solution.solvable
    assert operator.counts[0] == 4
    assert operator.counts[-1] == 1
    assert len(operator.counts) == int(solution.products.max())
    assert float(error(operator, solution.value, rhs).max()) <= 1e-9


def test_float32_noise_is_measured_and_refined() -> None:
    basis, _ = torch.linalg.qr(normal(50, 50, seed=3))
    values = torch.cat((torch.full((3,), -0.97), torch.linspace(-0.9, 0.9, 47))).double()
    shift = (basis @ torch.diag(values) @ basis.mT).expand(4, 50, 50)
    operator, rhs = Operator(shift.float()), normal(4, 50, dtype=torch.float32)
    solution = Gmres().solve(operator, rhs)
    assert solution.solvable
    true = error(operator, solution.value, rhs)
    assert float(true.max()) <= 3e-6
    assert float((true - solution.residual.double()).abs().max()) <= 1.5e-6


def test_running_out_of_products_is_not_silent() -> None:
    operator, rhs = Operator(shifts(2, 40, 0.99)), normal(2, 40)
    solution = gmres(operator, rhs, budget=6)
    assert solution.status.tolist() == [Status.BUDGET] * 2
    assert not solution.solvable
    assert len(operator.counts) <= 6
    torch.testing.assert_close(solution.residual, error(operator, solution.value, rhs))


def test_a_singular_system_stalls() -> None:
    shift = -torch.eye(6, dtype=torch.float64)
    shift[0, 0] = 0.0
    operator = Operator(shift.unsqueeze(0))
    solution = gmres(operator, normal(1, 6))
    assert solution.status.tolist() == [Status.STALLED]
    assert float(solution.residual) > 0.1


@pytest.mark.parametrize("dim", [2, 20])
def test_adjoint_and_tangent_are_transposes(dim: int) -> None:
    matrix = shifts(1, dim, 0.9)[0]
    bound = FunctionMap(lambda w: torch.sin(w @ matrix.mT))
    linearization = bound.linearize(normal(3, dim))
    left, right = normal(3, dim, seed=1), normal(3, dim, seed=2)
    v = solve_adjoint(linearization, left).value
    u = solve_tangent(linearization, right).value
    torch.testing.assert_close((v * right).sum(1), (left * u).sum(1), rtol=1e-8, atol=1e-8)
    jacobian = linearization.jacobian()
    eye = torch.eye(dim, dtype=torch.float64)
    exact: Tensor = torch.linalg.solve((eye + jacobian).mT, left)
    torch.testing.assert_close(v, exact, rtol=0, atol=1e-8)


def test_default_adjoint() -> None:
    assert isinstance(default_adjoint(16), Direct)
    assert isinstance(default_adjoint(17), Gmres)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gmres(lambda v: v, torch.ones(1, 2), restart=0),
        lambda: gmres(lambda v: v, torch.ones(1, 2), budget=1),
        lambda: Gmres(restart=0),
        lambda: Gmres(budget=1),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"expected (restart|budget) to be at least"):
        make()
