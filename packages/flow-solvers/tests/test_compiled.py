"""Maps that run a whole solve as one function: same answers as the loop, same evaluations."""

import gc
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from flow_solvers import (
    CompiledFunction,
    CompiledMap,
    Direct,
    FunctionMap,
    Index,
    JacobianLinearization,
    LinearSolution,
    Newton,
    Operator,
    Status,
    Tolerance,
    resolvent,
    samples,
)
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck

TIGHT = Tolerance(rtol=1e-13)


def function(w: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """A contraction whenever |matrix| < 1, however steep its curvature."""
    return torch.sin(8 * (w @ matrix.mT + shift)) / 8


@dataclass
class Counter:
    evaluations: int = 0
    rows: int = 0


@dataclass
class Sines(CompiledMap):
    """`function` with its Jacobian by hand."""

    matrix: Tensor
    shift: Tensor
    evaluations_at_once: int = 1
    counter: Counter = field(default_factory=Counter)

    @property
    def unroll(self) -> int:
        return self.evaluations_at_once

    def value_and_jacobian(self, w: Tensor) -> tuple[Tensor, Tensor]:
        self.counter.evaluations += 1
        self.counter.rows += len(w)
        slope = torch.cos(8 * (w @ self.matrix.mT + self.shift))
        return self(w), slope.unsqueeze(2) * self.matrix

    def run(self, function: CompiledFunction, w: Tensor, *arguments: object) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return function(self, w, *arguments)

    def __call__(self, w: Tensor) -> Tensor:
        return function(w, self.matrix, self.shift)

    def linearize(self, w: Tensor) -> JacobianLinearization:
        return JacobianLinearization(self, w, *self.value_and_jacobian(w))

    def select(self, index: Index) -> "Sines":
        return Sines(self.matrix, self.shift[index], self.evaluations_at_once, self.counter)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix, self.shift)

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Sines":
        matrix, shift = tensors
        return Sines(matrix, shift, self.evaluations_at_once, self.counter)

    def __neg__(self) -> "Sines":
        return Sines(-self.matrix, -self.shift, self.evaluations_at_once, self.counter)


class CompiledSines(Sines):
    """`Sines` whose functions are compiled."""

    def run(self, function: CompiledFunction, w: Tensor, *arguments: object) -> tuple[Tensor, ...]:
        matrix, shift = (t.detach() for t in self.tensors())
        own = Sines(matrix, shift, self.evaluations_at_once, self.counter)
        with torch.no_grad():
            whole = torch.compile(function, fullgraph=True, dynamic=False)
            result: tuple[Tensor, ...] = whole(own, w.detach(), *arguments)
        return result


def problem(batch: int = 7, dim: int = 2, **settings: Any) -> tuple[Sines, Tensor]:
    source = torch.Generator().manual_seed(3)
    raw = torch.randn(dim, dim, generator=source, dtype=torch.float64)
    matrix = 0.9 * raw / torch.linalg.matrix_norm(raw, 2)
    shift = torch.randn(batch, dim, generator=source, dtype=torch.float64)
    x = 2 * torch.randn(batch, dim, generator=source, dtype=torch.float64)
    return Sines(matrix, shift, **settings), x


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_a_plain_and_a_compiled_map_agree(dim: int) -> None:
    bound, x = problem(40, dim)
    plain = FunctionMap(function, [bound.matrix], [bound.shift])
    expected = Newton().solve(plain, x, x, Tolerance())
    solution = Newton().solve(bound, x, x, Tolerance())
    assert solution.all_converged
    torch.testing.assert_close(solution.value, expected.value)
    assert torch.equal(solution.evaluations, expected.evaluations)
    assert solution.calls == expected.calls == bound.counter.evaluations
    assert int(solution.evaluations.max()) > 4  # the map is hard enough to matter


def test_looking_less_often_costs_at_most_the_last_look() -> None:
    bound, x = problem(40)
    one = Newton().solve(bound, x, x, Tolerance())
    several, _ = problem(40, evaluations_at_once=3)
    three = Newton().solve(several, x, x, Tolerance())
    assert torch.equal(three.value, one.value)
    assert torch.equal(three.evaluations, one.evaluations)
    assert three.calls == max(one.calls, 3)


@pytest.mark.parametrize("at_once", [1, 3])
def test_solved_samples_of_a_large_batch_are_left_behind(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, x = problem(3000, evaluations_at_once=at_once)
    together, _ = problem(3000, evaluations_at_once=at_once)
    solution = Newton().solve(bound, x, x, Tolerance())
    monkeypatch.setattr(samples, "_COMPACT_FROM_NUMEL", x.numel() + 1)
    expected = Newton().solve(together, x, x, Tolerance())
    assert solution.all_converged
    torch.testing.assert_close(solution.value, expected.value, rtol=0, atol=1e-15)
    assert torch.equal(solution.evaluations, expected.evaluations)
    assert solution.calls == expected.calls
    assert together.counter.rows == expected.calls * 3000
    assert bound.counter.rows < 0.75 * together.counter.rows
    assert solution.linearization is not None
    at = bound.linearize(solution.value)
    torch.testing.assert_close(solution.linearization.jacobian(), at.jacobian())
    torch.testing.assert_close(solution.linearization.value, at.value)


@pytest.mark.parametrize("budget", [8, 10])
def test_what_is_left_when_the_budget_ends_keeps_its_place(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, x = problem(3000)
    solution = Newton(budget=budget).solve(bound, x, x, TIGHT)
    assert solution.calls <= budget
    assert bound.counter.rows < budget * 3000
    monkeypatch.setattr(samples, "_COMPACT_FROM_NUMEL", x.numel() + 1)
    expected = Newton(budget=budget).solve(bound, x, x, TIGHT)
    assert 0 < int((expected.status == Status.BUDGET).sum()) < 3000
    assert torch.equal(solution.status, expected.status)
    torch.testing.assert_close(solution.residual, expected.residual, rtol=0, atol=1e-15)


@pytest.mark.parametrize("batch", [7, 3000])
def test_the_linearization_belongs_to_the_value(batch: int) -> None:
    bound, x = problem(batch)
    solution = resolvent(bound, x, tolerance=TIGHT)
    assert solution.linearization is not None
    at = bound.linearize(solution.value)
    torch.testing.assert_close(solution.linearization.jacobian(), at.jacobian())
    torch.testing.assert_close(solution.linearization.value, at.value, rtol=0, atol=1e-12)


def test_a_nan_ends_only_its_sample() -> None:
    bound, x = problem()
    x[2, 1] = math.nan
    solution = Newton().solve(bound, x, x, Tolerance())
    assert solution.status.tolist() == [0, 0, Status.NONFINITE, 0, 0, 0, 0]
    assert bool(solution.value[2].isnan().all())


@pytest.mark.parametrize("budget", [1, 2, 3, 5])
@pytest.mark.parametrize("at_once", [1, 3])
def test_the_budget_is_kept(budget: int, at_once: int) -> None:
    bound, x = problem(evaluations_at_once=at_once)
    solution = Newton(budget=budget).solve(bound, x, x, TIGHT)
    assert bound.counter.evaluations == solution.calls <= budget
    assert int(solution.evaluations.max()) <= budget
    assert bool((solution.status == Status.BUDGET).any())


def test_what_cannot_be_solved_is_given_up() -> None:
    bound, x = problem()
    expansive = Sines(40 * bound.matrix, bound.shift)
    solution = Newton(budget=200).solve(expansive, x, x, TIGHT)
    assert bool((solution.status == Status.STALLED).any())
    assert solution.calls < 200


def test_an_empty_batch_is_solved() -> None:
    bound, x = problem(0)
    solution = resolvent(bound, x)
    assert solution.value.shape == (0, 2)
    assert solution.all_converged


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("gain", [1.0, 3.0, 40.0])
def test_a_plain_and_a_compiled_map_give_up_the_same_samples(gain: float, at_once: int) -> None:
    bound, x = problem(40, evaluations_at_once=at_once)
    bound.matrix *= gain
    x[3, 0] = math.nan
    solution = Newton(budget=30).solve(bound, x, x, TIGHT)
    plain = FunctionMap(function, [bound.matrix], [bound.shift])
    expected = Newton(budget=30).solve(plain, x, x, TIGHT)
    assert torch.equal(solution.status, expected.status)
    assert int(solution.status[3]) == Status.NONFINITE
    assert gain < 40 or bool((solution.status == Status.STALLED).any())
    assert bound.counter.evaluations == solution.calls == max(expected.calls, at_once)
    assert solution.linearization is None is expected.linearization


def plain_value_and_log_det(x: Tensor, matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    solution = resolvent(FunctionMap(function, [matrix], [shift]), x, tolerance=TIGHT)
    assert isinstance(solution.linearization, JacobianLinearization)
    eye = torch.eye(x.shape[1], dtype=x.dtype)
    return solution.value, torch.linalg.slogdet(eye + solution.linearization.jacobian()).logabsdet


def test_the_jacobian_of_any_map_is_differentiable_twice() -> None:
    bound, x = problem(3)
    inputs = [t.requires_grad_() for t in (x, *bound.tensors())]
    assert gradcheck(plain_value_and_log_det, inputs)
    assert gradgradcheck(plain_value_and_log_det, inputs)


def test_the_jacobian_of_scalar_samples() -> None:
    x = torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
    solution = resolvent(FunctionMap(lambda w: 0.6 * torch.sin(w)), x, tolerance=TIGHT)
    assert solution.linearization is not None
    expected = 0.6 * torch.cos(solution.value)
    torch.testing.assert_close(solution.linearization.jacobian().flatten(), expected)
    torch.testing.assert_close(solution.linearization.vjp(x), expected * x)
    (first,) = grad(solution.linearization.jacobian().sum(), x, retain_graph=True)
    (second,) = grad(expected.sum(), x)
    torch.testing.assert_close(first, second)


@pytest.mark.compile
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_what_runs_compiled_is_what_runs(dim: int) -> None:
    results: list[tuple[Tensor, ...]] = []
    for kind in (Sines, CompiledSines):
        bound, x = problem(20, dim)
        inputs = [t.requires_grad_() for t in (x, *bound.tensors())]
        solution = resolvent(kind(bound.matrix, bound.shift, evaluations_at_once=3), x)
        assert solution.linearization is not None
        outputs = [solution.value.sin().sum(), solution.linearization.jacobian().cos().sum()]
        results.append((solution.value, *grad(outputs, inputs)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


def value_and_log_det(x: Tensor, matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    solution = resolvent(Sines(matrix, shift), x, tolerance=TIGHT)
    assert solution.linearization is not None
    eye = torch.eye(x.shape[1], dtype=x.dtype)
    return solution.value, torch.linalg.slogdet(eye + solution.linearization.jacobian()).logabsdet


def test_value_and_jacobian_are_differentiable_twice() -> None:
    bound, x = problem(3)
    inputs = [t.requires_grad_() for t in (x, *bound.tensors())]
    assert gradcheck(value_and_log_det, inputs)
    assert gradgradcheck(value_and_log_det, inputs)


@pytest.mark.parametrize("chosen", [(0,), (1,), (0, 1), (2,)])
def test_gradients_by_some_inputs_only(chosen: tuple[int, ...]) -> None:
    bound, x = problem(3)
    inputs = [x, *bound.tensors()]
    for i in chosen:
        inputs[i].requires_grad_()
    assert gradcheck(value_and_log_det, inputs)


def test_an_ill_conditioned_adjoint_takes_the_careful_way(monkeypatch: pytest.MonkeyPatch) -> None:
    careful: list[Operator] = []
    plain = Direct.solve

    def counted(self: Direct, operator: Operator, rhs: Tensor) -> LinearSolution:
        careful.append(operator)
        return plain(self, operator, rhs)

    monkeypatch.setattr(Direct, "solve", counted)
    for gain, calls in ((0.5, 0), (1 - 1e-5, 1)):
        matrix = -torch.diag(torch.tensor([gain, 0.5]))
        shift, x = torch.zeros(4, 2), 1e-6 * torch.ones(4, 2)
        x.requires_grad_()
        bound = Sines(matrix.clone().requires_grad_(), shift)
        solution = resolvent(bound, x, on_failure="return")
        (g,) = grad(solution.value.sum(), x)
        assert len(careful) == calls
        jacobian = Sines(matrix, shift).linearize(solution.value.detach()).jacobian().double()
        ones = torch.ones(4, 2, dtype=torch.float64)
        expected = torch.linalg.solve(torch.eye(2).double() + jacobian.mT, ones)
        # What float32 knows of 1 - gain limits the gradient, whatever the solver.
        torch.testing.assert_close(g.double(), expected, rtol=2e-2, atol=0)


def test_a_solution_leaves_no_cycle_behind() -> None:
    bound, x = problem()
    x.requires_grad_()
    gc.collect()
    gc.disable()
    try:
        solution = resolvent(bound, x)
        node = weakref.ref(cast(Any, solution.value.grad_fn))
        del solution
        assert node() is None
    finally:
        gc.enable()
