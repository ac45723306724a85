import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import jaxtyping
import pytest
import torch
from flow_solvers import (
    Anderson,
    Broyden,
    Fallback,
    FunctionMap,
    MapFunction,
    Newton,
    Picard,
    Solution,
    Solver,
    Status,
    Tolerance,
    default_solver,
    fixed_point,
    resolvent,
)
from torch import Tensor

SOLVERS: dict[str, Solver] = {
    "picard": Picard(budget=5000),
    "damped": Picard(damping=0.5, budget=5000),
    "anderson": Anderson(),
    "broyden": Broyden(),
    "newton": Newton(),
}


@dataclass
class Counted:
    """A function that counts batched calls and samples."""

    function: MapFunction
    batches: list[int] = field(default_factory=list)

    def __call__(self, w: Tensor, *tensors: Tensor) -> Tensor:
        self.batches.append(w.shape[0])
        return cast("Callable[..., Tensor]", self.function)(w, *tensors)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64).to(dtype)


def with_eigenvalues(values: Tensor) -> Tensor:
    factors: tuple[Tensor, Tensor] = torch.linalg.qr(normal(values.numel(), values.numel(), seed=7))
    basis = factors[0]
    return basis @ torch.diag(values) @ basis.T


def spectrum(kind: str, dim: int, norm: float) -> Tensor:
    if kind == "symmetric":
        return norm * with_eigenvalues(torch.linspace(-1, 1, dim, dtype=torch.float64))
    if kind == "decaying":
        return -norm * with_eigenvalues(0.8 ** torch.arange(dim, dtype=torch.float64))
    raw = normal(dim, dim, seed=8)
    raw = raw - raw.mT if kind == "skew" else raw
    size: Tensor = torch.linalg.matrix_norm(raw, 2)
    return norm * raw / size


def affine(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    def function(w: Tensor) -> Tensor:
        return w @ matrix.mT + 0.3

    return function


def sines(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    def function(w: Tensor) -> Tensor:
        return torch.sin(w @ matrix.mT + 0.3)

    return function


def rms(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1).square().mean(dim=1).sqrt()


def residual_ratio(x: Tensor, w: Tensor, image: Tensor) -> Tensor:
    return rms(x - w - image) / (rms(x) + rms(w) + rms(image))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 3, 20])
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_finds_the_solution_of_an_affine_map(
    name: str, dim: int, dtype: torch.dtype
) -> None:
    matrix = spectrum("random", dim, 0.8)
    x = normal(9, dim, seed=1)
    eye = torch.eye(dim, dtype=torch.float64)
    exact: Tensor = torch.linalg.solve(eye + matrix, (x - 0.3).mT).mT
    solution = resolvent(
        FunctionMap(affine(matrix.to(dtype))), x.to(dtype), solver=SOLVERS[name], lipschitz=0.8
    )
    assert solution.all_converged
    assert solution.value.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(solution.value.double(), exact, rtol=0, atol=200 * tolerance)
    assert solution.error_bound is not None
    rounding = 1e-6 if dtype == torch.float32 else 1e-14
    assert bool((rms(solution.value.double() - exact) <= solution.error_bound + rounding).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_claimed_residual_is_that_of_the_returned_value(name: str, dtype: torch.dtype) -> None:
    function = sines(spectrum("random", 6, 0.9).to(dtype))
    x = normal(50, 6, seed=2, dtype=dtype)
    solution = SOLVERS[name].solve(FunctionMap(function), x, x, Tolerance())
    image = function(solution.value)
    torch.testing.assert_close(solution.residual, rms(x - solution.value - image), rtol=0.2, atol=0)
    rtol = 1e-6 if dtype == torch.float32 else 1e-10
    assert float(residual_ratio(x, solution.value, image).max()) <= 1.001 * rtol


@pytest.mark.parametrize("name", SOLVERS)
def test_minus_g_is_solved_too(name: str) -> None:
    function = sines(spectrum("random", 2, 0.8))
    x = normal(11, 2)
    w = resolvent(-FunctionMap(function), x, solver=SOLVERS[name]).value
    torch.testing.assert_close(w - function(w), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "solver", "most"),
    [
        ("skew", Anderson(), 22),
        ("skew", Broyden(), 22),
        ("skew", Picard(damping=0.5), 60),
        ("symmetric", Anderson(), 85),
        ("symmetric", Broyden(memory=100), 55),
        ("symmetric", Picard(), 250),
        ("decaying", Anderson(), 45),
        ("decaying", Broyden(), 36),
        ("random", Anderson(), 24),
    ],
)
def test_evaluations_on_known_spectra(kind: str, solver: Solver, most: int) -> None:
    function = Counted(affine(spectrum(kind, 256, 0.95)))
    solution = solver.solve(FunctionMap(function), normal(8, 256), normal(8, 256), Tolerance(1e-6))
    assert solution.all_converged
    assert solution.calls == len(function.batches) <= most
    assert int(solution.evaluations.max()) == solution.calls


@pytest.mark.parametrize("kind", ["skew", "symmetric", "decaying", "random"])
def test_accelerating_every_step_takes_no_fewer_evaluations(kind: str) -> None:
    bound, x = FunctionMap(affine(spectrum(kind, 256, 0.95))), normal(8, 256)
    every, third = (Anderson(period=p).solve(bound, x, x, Tolerance(1e-6)) for p in (1, 3))
    assert every.all_converged
    assert third.all_converged
    assert third.calls <= every.calls


def test_newton_needs_two_evaluations_for_an_affine_map() -> None:
    function = Counted(affine(spectrum("random", 2, 0.95)))
    solution = Newton().solve(FunctionMap(function), normal(8, 2), normal(8, 2), Tolerance())
    assert solution.calls == len(function.batches) == 2
    assert solution.linearization is not None
    assert solution.linearization.point is solution.value


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "damped"])
def test_an_easy_sample_is_frozen_while_a_hard_one_goes_on(name: str) -> None:
    strength = torch.tensor([0.0, 0.01, 0.98, 0.1], dtype=torch.float64)

    def function(w: Tensor, strength: Tensor) -> Tensor:
        return strength.unsqueeze(1) * torch.sin(w + 1)

    x = normal(4, 3, seed=5)
    solution = SOLVERS[name].solve(FunctionMap(function, (), (strength,)), x, x, Tolerance(1e-8))
    ratio = residual_ratio(x, solution.value, function(solution.value, strength))
    assert float(ratio.max()) <= 1e-8
    counts = solution.evaluations.tolist()
    assert counts[0] < counts[2]
    assert counts[1] < counts[2]


def test_a_hard_sample_is_not_hidden_by_the_norm_of_the_batch() -> None:
    strength = torch.zeros(1000, dtype=torch.float64)
    strength[-1] = 0.9
    x = normal(1000, 2)
    bound = FunctionMap(lambda w, s: -s.unsqueeze(1) * w, (), (strength,))
    solution = Picard().solve(bound, x, x, Tolerance(1e-4))
    exact = x / (1 - strength.unsqueeze(1))
    assert float(rms(solution.value - exact)[-1]) < 4e-3 * float(rms(exact)[-1])


@pytest.mark.parametrize("name", SOLVERS)
def test_what_it_was_given_stays_as_it_was(name: str) -> None:
    strength = torch.zeros(1000, dtype=torch.float64)
    strength[::100] = 0.5
    x = normal(1000, 2)
    given = x.clone()
    bound = FunctionMap(lambda w, s: s.unsqueeze(1) * torch.sin(w), (), (strength,))
    solution = SOLVERS[name].solve(bound, x, x, Tolerance())
    assert torch.equal(x, given)
    assert solution.all_converged
    assert not torch.equal(solution.value, given)
    # Also where the start is the solution, and nothing was moved.
    solution = SOLVERS[name].solve(FunctionMap(lambda w: 0 * w), x, x, Tolerance())
    solution.value.zero_()
    assert torch.equal(x, given)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_nan_ends_only_its_sample(name: str) -> None:
    bound = FunctionMap(sines(spectrum("random", 3, 0.8)))
    x = normal(6, 3)
    clean = SOLVERS[name].solve(bound, x, x, Tolerance())
    poisoned = x.clone()
    poisoned[2, 1] = math.nan
    poisoned[4, 0] = math.inf
    solution = SOLVERS[name].solve(bound, poisoned, poisoned, Tolerance())
    assert solution.status.tolist() == [0, 0, Status.NONFINITE, 0, Status.NONFINITE, 0]
    assert bool(solution.value[[2, 4]].isnan().all())
    assert solution.evaluations[[2, 4]].tolist() == [1, 1]
    good = [0, 1, 3, 5]
    torch.testing.assert_close(solution.value[good], clean.value[good], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_do_not_depend_on_their_neighbours(name: str) -> None:
    bound = FunctionMap(sines(spectrum("random", 3, 0.8)))
    x = normal(5, 3)
    together = SOLVERS[name].solve(bound, x, x, Tolerance())
    for position in range(5):
        row = x[position : position + 1]
        alone = SOLVERS[name].solve(bound, row, row, Tolerance())
        torch.testing.assert_close(alone.value[0], together.value[position], rtol=0, atol=3e-9)
        assert int(alone.evaluations[0]) == int(together.evaluations[position])


@pytest.mark.parametrize("name", SOLVERS)
def test_an_equation_without_solution_stalls(name: str) -> None:
    solution = SOLVERS[name].solve(
        FunctionMap(lambda w: 0.5 * torch.sign(w)),
        torch.tensor([[0.2], [3.0]]),
        torch.tensor([[1.0], [1.0]]),
        Tolerance(),
    )
    assert solution.status.tolist() == [Status.STALLED, Status.CONVERGED]
    assert solution.calls < 200
    assert float(solution.residual[0]) > 0.1


def test_the_best_iterate_is_kept() -> None:
    solution = Picard(budget=50, patience=6).solve(
        FunctionMap(lambda w: 2 * w), torch.ones(1, 1), torch.zeros(1, 1), Tolerance()
    )
    assert solution.status.tolist() == [Status.STALLED]
    assert float(solution.value) == 0.0
    assert float(solution.residual) == 1.0


@pytest.mark.parametrize("name", SOLVERS)
def test_running_out_of_budget_is_not_silent(name: str) -> None:
    limited: dict[str, Solver] = {
        "picard": Picard(budget=3),
        "damped": Picard(damping=0.5, budget=3),
        "anderson": Anderson(budget=3),
        "broyden": Broyden(budget=3),
        "newton": Newton(budget=3),
    }
    function = Counted(lambda w: 0.95 * torch.sin(w + 1))
    x = normal(4, 20, seed=3)
    solution = limited[name].solve(FunctionMap(function), x, x, Tolerance(1e-13))
    assert solution.status.tolist() == [Status.BUDGET] * 4
    assert solution.calls == len(function.batches) == 3
    assert solution.evaluations.tolist() == [3] * 4


def test_a_certified_constant_buys_the_guaranteed_budget() -> None:
    x = normal(3, 30, seed=1)
    bound = FunctionMap(affine(spectrum("symmetric", 30, 0.9)))
    assert not Picard(budget=10).solve(bound, x, x, Tolerance()).all_converged
    certified = Picard(damping=0.5, budget=10, lipschitz=0.9)
    solution = certified.solve(bound, x, x, Tolerance())
    assert solution.all_converged
    assert 100 < solution.calls <= certified.guaranteed_budget(1e-10) < 600


def test_fallback_hands_on_only_the_samples_that_failed() -> None:
    strength = torch.tensor([0.001, 0.9, 0.001, 0.001], dtype=torch.float64)
    function = Counted(lambda w, s: s.unsqueeze(1) * torch.sin(w + 1))
    x = normal(4, 3, seed=5)
    chain = Fallback((Picard(budget=5), Anderson()))
    solution = chain.solve(FunctionMap(function, (), (strength,)), x, x, Tolerance())
    assert solution.all_converged
    assert function.batches[:5] == [4] * 5
    assert set(function.batches[5:]) == {1}
    assert solution.calls == len(function.batches)
    assert int(solution.evaluations[1]) == solution.calls
    assert solution.linearization is None


def test_fallback_does_not_retry_what_was_never_finite() -> None:
    function = Counted(lambda w: w * math.nan)
    chain = Fallback((Newton(), Picard()))
    solution = chain.solve(FunctionMap(function), normal(2, 2), normal(2, 2), Tolerance())
    assert solution.status.tolist() == [Status.NONFINITE] * 2
    assert len(function.batches) == 1


@pytest.mark.parametrize("solver", [Newton(), Broyden(), Anderson(), default_solver(1)])
def test_overshooting_steps_are_taken_back(solver: Solver) -> None:
    bound = FunctionMap(lambda w: 0.97 * torch.sin(3 * w) / 3)
    x = torch.linspace(-9, 9, 600, dtype=torch.float64)
    solution = Fallback((solver, Picard(damping=0.5))).solve(bound, x, x.flip(0), Tolerance())
    assert solution.all_converged
    torch.testing.assert_close(solution.value + bound(solution.value), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("solver", [Newton(), Broyden(), Anderson()])
def test_a_step_into_nan_is_taken_back(solver: Solver) -> None:
    def function(w: Tensor) -> Tensor:
        return torch.where(w.abs() < 1.7, -0.9 * torch.sin(w), math.nan)

    x = torch.linspace(0.05, 0.7, 40, dtype=torch.float64).unsqueeze(1)
    solution = solver.solve(FunctionMap(function), x, torch.full_like(x, 0.1), Tolerance())
    assert bool(solution.converged.all())


def test_a_large_batch_is_compacted_without_changing_the_result() -> None:
    strength = torch.full((2000,), 0.05, dtype=torch.float64)
    strength[::400] = 0.95
    function = Counted(lambda w, s: s.unsqueeze(1) * torch.sin(w + 1))
    bound = FunctionMap(function, (), (strength,))
    x = normal(2000, 4)
    solvers: list[Solver] = [Picard(), Anderson(), Broyden(), Newton()]
    for solver in solvers:
        function.batches.clear()
        solution = solver.solve(bound, x, x, Tolerance())
        assert solution.all_converged
        assert function.batches[0] == 2000
        assert function.batches[-1] <= 1000
        assert solution.calls == int(solution.evaluations.max())
        assert int(solution.evaluations.sum()) <= sum(function.batches)
        image = strength.unsqueeze(1) * torch.sin(solution.value + 1)
        assert float(residual_ratio(x, solution.value, image).max()) < 1e-10


def solve_shape(shape: tuple[int, ...]) -> Solution:
    return resolvent(FunctionMap(lambda w: 0.5 * torch.sin(w)), normal(*shape))


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 5, 5), (0,), (0, 2), (0, 3, 5, 5)])
def test_any_shape_of_a_sample(shape: tuple[int, ...]) -> None:
    solution = solve_shape(shape)
    assert solution.value.shape == shape
    assert solution.residual.shape == solution.status.shape == shape[:1]
    expected = solution.value + 0.5 * torch.sin(solution.value)
    torch.testing.assert_close(expected, normal(*shape), rtol=0, atol=1e-8)


def test_a_start_that_is_the_solution_is_returned_as_new_storage() -> None:
    x = normal(3, 2)
    solution = resolvent(FunctionMap(torch.zeros_like), x)
    assert solution.calls == 1
    assert solution.value.data_ptr() != x.data_ptr()
    torch.testing.assert_close(solution.value, x, rtol=0, atol=0)


def test_non_contiguous_input() -> None:
    x = normal(5, 4, 3).permute(2, 0, 1)
    solution = resolvent(FunctionMap(lambda w: 0.5 * torch.sin(w).mT.contiguous().mT), x)
    torch.testing.assert_close(
        solution.value + 0.5 * torch.sin(solution.value), x, rtol=0, atol=1e-8
    )


def test_fixed_point_of_the_cosine() -> None:
    solution = fixed_point(FunctionMap(torch.cos), torch.zeros(3, 1, dtype=torch.float64))
    assert float(solution.value[0]) == pytest.approx(0.7390851332151607, abs=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e19, 1e30])
def test_tiny_and_huge_numbers_are_solved_too(dim: int, size: float) -> None:
    x = torch.ones(2, dim)
    x[0] = size
    solution = Picard(budget=60).solve(FunctionMap(lambda w: 0.5 * w), x, x, Tolerance())
    assert solution.all_converged
    torch.testing.assert_close(solution.value, x / 1.5, rtol=1e-5, atol=0)


def test_the_absolute_tolerance_counts() -> None:
    bound, x = FunctionMap(lambda w: 0.9 * w), torch.full((1, 4), 1e-3, dtype=torch.float64)
    loose = Picard().solve(bound, x, x, Tolerance(rtol=0.0, atol=1e-5))
    assert 1e-6 < float(loose.residual) <= 1e-5


@pytest.mark.parametrize(
    ("dim", "kind"), [(1, Newton), (4, Newton), (5, Broyden), (16, Broyden), (17, Anderson)]
)
def test_default_solver(dim: int, kind: type) -> None:
    chain = default_solver(dim, lipschitz=0.9)
    assert isinstance(chain, Fallback)
    assert isinstance(chain.solvers[0], kind)
    last = chain.solvers[-1]
    assert isinstance(last, Picard)
    assert last.lipschitz == 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Picard(damping=0.0), "damping"),
        (lambda: Picard(damping=1.5), "damping"),
        (lambda: Picard(lipschitz=1.0), "Lipschitz"),
        (lambda: Anderson(memory=0), "memory"),
        (lambda: Anderson(period=0), "period"),
        (lambda: Anderson(ridge=-1.0), "ridge"),
        (lambda: Broyden(memory=0), "memory"),
        (lambda: Fallback(()), "solver"),
        (lambda: Tolerance(rtol=-1.0), "rtol"),
        (lambda: Tolerance(atol=math.nan), "atol"),
        (lambda: resolvent(FunctionMap(torch.sin), torch.ones(2, 2).long()), "floating"),
        (lambda: resolvent(FunctionMap(torch.sin), torch.tensor(1.0)), "batch"),
        (lambda: resolvent(FunctionMap(torch.sin), torch.ones(2), lipschitz=1.0), "Lipschitz"),
        (lambda: resolvent(FunctionMap(torch.sin), torch.ones(2), start=torch.ones(3)), "start"),
        (lambda: resolvent(FunctionMap(lambda w: w[:, :1]), torch.ones(2, 2)), "shape"),
        (
            lambda: resolvent(FunctionMap(torch.sin), torch.ones(2), solver=Anderson(budget=0)),
            "budget",
        ),
        (lambda: Newton(budget=0), "budget"),
        (lambda: Newton(patience=0), "patience"),
        (
            lambda: resolvent(FunctionMap(torch.add, (), (torch.ones(3, 2),)), torch.ones(2, 2)),
            "per_sample tensors for 2 samples",
        ),
    ],
)
def test_bad_settings_are_refused(
    make: Callable[[], object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a user sees: without the annotations being checked before.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        make()
