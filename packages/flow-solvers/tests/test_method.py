"""Solvers from outside, and the Picard steps that the loop makes by itself."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from flow_solvers import (
    Anderson,
    BoundMap,
    FunctionMap,
    Index,
    Method,
    Picard,
    Solution,
    Status,
    Tolerance,
    iterate,
    resolvent,
)
from torch import Tensor
from torch.autograd import gradcheck


def normal(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


class NeumannStep(Method):
    """w ← w + (I - J) r."""

    growth = 1.0

    def evaluate(self, bound: BoundMap, w: Tensor) -> Tensor:
        self.linearization = bound.linearize(w)
        return self.linearization.value

    def propose(self, w: Tensor, residual: Tensor, reset: Tensor | None) -> Tensor:
        assert self.linearization is not None
        step = residual - self.linearization.jvp(residual)
        return step if reset is None else torch.where(reset.unsqueeze(1), residual, step)

    def select(self, index: Index) -> None:
        assert self.linearization is not None
        self.linearization = self.linearization.select(index)


@dataclass(frozen=True)
class Neumann:
    def solve(self, bound: BoundMap, x: Tensor, start: Tensor, tolerance: Tolerance) -> Solution:
        return iterate(NeumannStep(), bound, x, start, tolerance, budget=200, patience=5)


@dataclass
class Counted:
    """A contraction by `factor`, counted."""

    factor: Tensor
    batches: list[int] = field(default_factory=list)

    def __call__(self, w: Tensor) -> Tensor:
        self.batches.append(len(w))
        return self.factor * w


@pytest.mark.parametrize("batch", [5, 2000])
def test_an_outsiders_method_keeps_the_contract(batch: int) -> None:
    strength = torch.where(torch.arange(batch) % 5 == 0, 0.7, 0.05).double()
    bound = FunctionMap(lambda w, s: s.unsqueeze(1) * torch.sin(w + 1), (), (strength,))
    x = normal(batch, 6)
    x[1, 2] = math.nan
    solution = resolvent(bound, x, solver=Neumann(), on_failure="return")
    assert solution.status.nonzero().flatten().tolist() == [1]
    assert int(solution.status[1]) == Status.NONFINITE
    assert int(solution.evaluations.max()) == solution.calls
    assert int(solution.evaluations[0]) > int(solution.evaluations[2])
    good = torch.arange(batch) != 1
    image = solution.value + bound(solution.value)
    torch.testing.assert_close(image[good], x[good], rtol=0, atol=1e-8)


def test_an_outsiders_method_has_derivatives() -> None:
    def solve(x: Tensor, matrix: Tensor) -> Tensor:
        bound = FunctionMap(lambda w, m: torch.sin(w @ m.mT), (matrix,))
        return resolvent(bound, x, solver=Neumann(), tolerance=Tolerance(rtol=1e-13)).value

    matrix = normal(3, 3, seed=1)
    matrix = 0.6 * matrix / torch.linalg.matrix_norm(matrix, 2)
    assert gradcheck(solve, (normal(2, 3).requires_grad_(), matrix.requires_grad_()))


def test_what_picard_solves_at_once_costs_no_more_than_picard() -> None:
    function = Counted(torch.linspace(-0.02, 0.02, 20, dtype=torch.float64))
    x = normal(6, 20)
    solution = Anderson().solve(FunctionMap(function), x, x, Tolerance())
    picard = Picard().solve(FunctionMap(function), x, x, Tolerance())
    assert solution.all_converged
    assert torch.equal(solution.evaluations, picard.evaluations)
    torch.testing.assert_close(solution.value, picard.value, rtol=0, atol=0)


@pytest.mark.parametrize("budget", range(1, 8))
def test_steps_that_nobody_looks_at_are_counted_and_keep_the_budget(budget: int) -> None:
    function = Counted(torch.full((20,), 0.02, dtype=torch.float64))
    x = normal(6, 20)
    solution = Anderson(budget=budget).solve(FunctionMap(function), x, x, Tolerance())
    assert solution.calls == len(function.batches) <= budget
    assert solution.evaluations.tolist() == [solution.calls] * 6
    assert solution.all_converged == (budget >= 6)


def test_a_sample_that_stops_contracting_is_accelerated() -> None:
    # Contracts quickly until its parts in the slow directions are what is left.
    factor = torch.cat((torch.full((18,), 0.01), torch.tensor([0.9, -0.9]))).double()
    x = normal(4, 20)
    x[:, 18:] *= 1e-5
    bound = FunctionMap(Counted(factor))
    solution = Anderson().solve(bound, x, x, Tolerance())
    assert solution.all_converged
    assert solution.calls < 16
