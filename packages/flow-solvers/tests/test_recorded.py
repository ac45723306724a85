"""Solves whose last evaluation is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from flow_solvers import (
    Anderson,
    BoundMap,
    Functional,
    Index,
    Linearization,
    Picard,
    Recorded,
    SolvedLinearization,
    Solver,
    Tolerance,
    Unpack,
    resolvent,
)
from torch import Tensor


@dataclass
class Tally:
    """Evaluations without and with a record."""

    plain: int = 0
    records: int = 0


@dataclass(frozen=True)
class Tanh:
    """G(w) = A tanh(w)."""

    matrix: Tensor
    tally: Tally = field(default_factory=Tally)

    def __call__(self, w: Tensor) -> Tensor:
        self.tally.plain += 1
        return w.tanh() @ self.matrix.T

    def linearize(self, w: Tensor) -> "AtPoint":
        return AtPoint(self, w, w.tanh() @ self.matrix.T, 1 - w.tanh().square())

    def record(self, w: Tensor) -> "Record":
        self.tally.records += 1
        return Record(self.linearize(w))

    def select(self, index: Index) -> "Tanh":
        return self

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Tanh":
        return Tanh(tensors[0], self.tally)

    def __neg__(self) -> "Tanh":
        return Tanh(-self.matrix, self.tally)


@dataclass(frozen=True)
class AtPoint:
    bound: Tanh
    point: Tensor
    value: Tensor
    slope: Tensor

    def jvp(self, tangent: Tensor) -> Tensor:
        return (self.slope * tangent) @ self.bound.matrix.T

    def vjp(self, cotangent: Tensor) -> Tensor:
        return self.slope * (cotangent @ self.bound.matrix)

    def jacobian(self) -> Tensor:
        return self.bound.matrix * self.slope.unsqueeze(1)

    def select(self, index: Index) -> "AtPoint":
        return AtPoint(self.bound, self.point[index], self.value[index], self.slope[index])


@dataclass(frozen=True)
class Record:
    linearization: AtPoint

    def pull_back(self, needed: Sequence[bool]) -> "ByAutograd":
        return ByAutograd(self.linearization)

    def packed(self) -> tuple[tuple[Tensor, ...], Unpack]:
        at = self.linearization
        return (at.point, at.value, at.slope), lambda tensors: Record(AtPoint(at.bound, *tensors))


class ByAutograd:
    """The pull-back of a record, for a test: by a graph."""

    def __init__(self, at: AtPoint) -> None:
        self.linearization: Linearization = at
        self._point = at.point.detach().requires_grad_()
        self._matrix = at.bound.matrix.detach().requires_grad_()
        self._total = torch.zeros_like(self._matrix)

    def value(self, along: Tensor) -> Tensor:
        return self._add(lambda at: (at.value * along).sum(1), torch.ones(len(along)).to(along))

    def functional(self, function: Functional, weights: Tensor) -> Tensor:
        return self._add(function, weights)

    def tensors(self) -> list[Tensor | None]:
        return [self._total]

    def _add(self, function: Functional, weights: Tensor) -> Tensor:
        with torch.enable_grad():
            image = function(Tanh(self._matrix).linearize(self._point)) @ weights
        by_point, by_matrix = torch.autograd.grad(image, [self._point, self._matrix])
        self._total = self._total + by_matrix
        return by_point


def contraction(seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    matrix = torch.randn(20, 20, dtype=torch.float64)
    matrix = 0.7 * matrix / torch.linalg.matrix_norm(matrix, 2)
    return matrix.requires_grad_(), torch.randn(5, 20, dtype=torch.float64).requires_grad_()


def trace_like(at: Linearization) -> Tensor:
    probe = torch.ones_like(at.point)
    return (probe * at.vjp(probe)).sum(1)


def test_maps_record() -> None:
    matrix, _ = contraction()
    assert isinstance(Tanh(matrix), BoundMap)
    assert isinstance(Tanh(matrix).record(torch.zeros(1, 20).double()), Recorded)


@pytest.mark.parametrize("solver", [Picard(), Anderson(), None], ids=["picard", "anderson", "auto"])
def test_the_last_evaluation_is_the_record(solver: Solver | None) -> None:
    matrix, x = contraction()
    bound = Tanh(matrix)
    solution = resolvent(bound, x, solver=solver, linearized=True)
    at = solution.linearization
    assert isinstance(at, SolvedLinearization)
    # Evaluations that were expected to be the last ones and were not are few.
    assert bound.tally.plain + bound.tally.records == solution.calls
    assert 1 <= bound.tally.records <= 5
    torch.testing.assert_close(at.plain.value, bound.linearize(solution.value).value)
    assert torch.equal(at.plain.point, solution.value)
    assert resolvent(bound, x, solver=solver).linearization is None


def test_gradients_are_those_without_a_record() -> None:
    matrix, x = contraction()
    at = resolvent(Tanh(matrix), x, linearized=True).linearization
    assert isinstance(at, SolvedLinearization)
    weights = torch.arange(1.0, 6.0).double()
    total = weights @ at.attach(trace_like) + at.point.sin().sum()
    found = torch.autograd.grad(total, [x, matrix])

    point = resolvent(Tanh(matrix), x).value
    total = weights @ trace_like(Tanh(matrix).linearize(point)) + point.sin().sum()
    expected = torch.autograd.grad(total, [x, matrix])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_gradients_of_gradients_pass_by_the_record() -> None:
    matrix, x = contraction()

    def scalars(x: Tensor, matrix: Tensor) -> Tensor:
        at = resolvent(Tanh(matrix), x, linearized=True).linearization
        assert isinstance(at, SolvedLinearization)
        return trace_like(at) + at.attach(trace_like)

    (by_x,) = torch.autograd.grad(scalars(x, matrix).sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(by_x.square().sum(), matrix)
    point = resolvent(Tanh(matrix), x).value
    twice = 2 * trace_like(Tanh(matrix).linearize(point))
    (by_x,) = torch.autograd.grad(twice.sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(by_x.square().sum(), matrix)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_samples_that_end_apart_have_one_record() -> None:
    """Large batches leave finished samples behind; the record is of all of them at the end."""
    matrix, _ = contraction()
    bound = Tanh(matrix)
    x = torch.randn(4000, 20, dtype=torch.float64) * torch.logspace(-6, 1, 4000).unsqueeze(1)
    solution = resolvent(bound, x, tolerance=Tolerance(atol=1e-8), linearized=True)
    at = solution.linearization
    assert isinstance(at, SolvedLinearization)
    assert at.plain.point.shape == x.shape
    assert torch.equal(at.plain.point, solution.value)


def test_a_sample_that_is_not_solved_is_recorded_at_its_best() -> None:
    matrix, x = contraction()
    solution = resolvent(
        Tanh(matrix), x, solver=Picard(budget=3), linearized=True, on_failure="return"
    )
    at = solution.linearization
    assert isinstance(at, SolvedLinearization)
    assert not solution.all_converged
    assert torch.equal(at.plain.point, solution.value)
