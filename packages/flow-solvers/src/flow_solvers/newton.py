"""Newton's method for small dimensions: every evaluation with all that follows is one function."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow_solvers import samples
from flow_solvers.compiled import compiled, run
from flow_solvers.jacobian import JacobianLinearization
from flow_solvers.maps import BoundMap, Index
from flow_solvers.shifted import solve_shifted
from flow_solvers.solution import Solution, Status
from flow_solvers.tolerance import Tolerance, require_same_shape


@dataclass(frozen=True)
class Newton:
    """w ← w + (I + J(w))⁻¹ (x - w - G(w)), with J formed by `dim` products.

    A step that does not lower the residual is taken back and a Picard step is made instead, so
    that the method converges wherever G is a contraction.

    Attributes:
        budget: Evaluations of G, each with one Jacobian.
        patience: Evaluations without a better residual after which a sample has stalled.

    Raises:
        ValueError: A setting is below 1.
    """

    budget: int = 60
    patience: int = 4

    def __post_init__(self) -> None:
        if min(self.budget, self.patience) < 1:
            raise ValueError(
                f"expected a budget and a patience of at least 1, got {self.budget} and "
                f"{self.patience}"
            )

    @torch.no_grad()
    def solve(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        tolerance: Tolerance,
    ) -> Solution:
        """Solve w + G(w) = x from `start`.

        The solution has a `JacobianLinearization` where every sample is solved.

        Raises:
            ValueError: G changes the shape.
        """
        whole = compiled(bound, x)
        limits = _Limits(
            rtol=tolerance.relative(x.dtype),
            floor=tolerance.floor(x),
            patience=self.patience,
            steps=1 if whole is None else whole.unroll,
        )
        return _Descent(bound, x, start, limits).run(self.budget)


class _Limits(NamedTuple):
    """When a sample is solved, when it is given up, and evaluations until someone looks."""

    rtol: float
    floor: float
    patience: int
    steps: int


class _Best(NamedTuple):
    """The best iterate of every sample, and whether a better one is sought."""

    w: Float[Tensor, " batch *shape"]
    residual: Float[Tensor, " batch *shape"]
    norm: Float[Tensor, " batch"]
    solved: Bool[Tensor, " batch"]
    active: Bool[Tensor, " batch"]
    stale: Int[Tensor, " batch"]
    evaluations: Int[Tensor, " batch"]


@final
class _Descent:
    """One solve: looks at the state between evaluations, and leaves finished samples behind."""

    def __init__(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        limits: _Limits,
    ) -> None:
        self._bound, self._x, self._next, self._limits = bound, x, start, limits
        norm = torch.full(x.shape[:1], math.inf, dtype=x.dtype, device=x.device)
        zeros = torch.zeros_like(norm, dtype=torch.int64)
        active = zeros == 0
        self._best = _Best(start, x, norm, ~active, active, zeros, zeros)
        self._calls = self._given_up = 0
        self._wider: list[tuple[Index, BoundMap, Tensor, tuple[Tensor, ...]]] = []

    def run(self, budget: int) -> Solution:
        """Evaluate until every sample is solved or given up, or the budget ends.

        Once half of a large batch is finished, the rest goes on alone.
        """
        active, unsolved = self._evaluate(min(self._limits.steps, budget))
        while active and self._calls < budget:
            if samples.worth_compacting(active, self._x):
                self._narrow()
                self._given_up += unsolved - active
            active, unsolved = self._evaluate(1)
        self._widen()
        return self._solution(all_solved=self._given_up + unsolved == 0)

    def _evaluate(self, steps: int) -> list[int]:
        """How many samples are still active, and how many are not solved."""
        self._calls += steps
        limits = self._limits._replace(steps=steps)
        counts, *state = run(_descend, self._bound, self._next, self._x, self._best, limits)
        self._take(state)
        numbers: list[int] = counts.tolist()
        return numbers

    def _take(self, state: Sequence[Tensor]) -> None:
        self._next, self._value, self._jacobian, *best = state
        self._best = _Best(*best)

    def _state(self) -> tuple[Tensor, ...]:
        return (self._next, self._value, self._jacobian, *self._best)

    def _narrow(self) -> None:
        """Leave the finished samples behind."""
        index = self._best.active.nonzero().flatten()
        self._wider.append((index, self._bound, self._x, self._state()))
        self._bound, self._x = self._bound.select(index), self._x[index]
        self._take([t[index] for t in self._state()])

    def _widen(self) -> None:
        """Put what was found for some samples in their places."""
        while self._wider:
            index, self._bound, self._x, state = self._wider.pop()
            parts = zip(state, self._state(), strict=True)
            self._take([whole.index_copy(0, index, part) for whole, part in parts])

    def _solution(self, *, all_solved: bool) -> Solution:
        best = self._best
        status, value, linearization = torch.zeros_like(best.stale), best.w, None
        if all_solved:  # and so the last evaluation of every sample was at its solution
            linearization = JacobianLinearization(self._bound, value, self._value, self._jacobian)
        else:
            status, unseen = _status(best), best.norm.isinf()
            value = torch.where(samples.per_sample(unseen, value), math.nan, value)
        return Solution(
            value=value,
            residual=best.norm / math.sqrt(max(samples.flat(value).shape[1], 1)),
            evaluations=best.evaluations,
            status=status,
            error_bound=None,
            calls=self._calls,
            linearization=linearization,
        )


def _status(best: _Best) -> Int[Tensor, " batch"]:
    status = torch.where(best.active, int(Status.BUDGET), int(Status.STALLED))
    status = torch.where(best.norm.isinf(), int(Status.NONFINITE), status)
    return torch.where(best.solved, int(Status.CONVERGED), status)


def _descend(
    bound: BoundMap,
    w: Float[Tensor, " batch *shape"],
    x: Float[Tensor, " batch *shape"],
    best: _Best,
    limits: _Limits,
) -> tuple[Tensor, ...]:
    """How many are active and unsolved, the next iterate, G and J at the last one, the best."""
    ahead, value, jacobian = w, w, w
    for _ in range(limits.steps):
        w = ahead
        at = bound.linearize(w)
        value = at.value
        require_same_shape(value, w)
        jacobian = at.jacobian()
        best = _judge(w, value, x, best, limits)
        ahead = _step(w, jacobian, best)
    counts = torch.stack((best.active.sum(), best.solved.logical_not().sum()))
    return counts, ahead, value, jacobian, *best


def _judge(
    w: Float[Tensor, " batch *shape"],
    value: Float[Tensor, " batch *shape"],
    x: Float[Tensor, " batch *shape"],
    best: _Best,
    limits: _Limits,
) -> _Best:
    """The best iterates now."""
    residual = x - w - value
    norm = samples.norm(residual)
    scale = samples.norm(x) + samples.norm(w) + samples.norm(value)
    met = norm < limits.rtol * scale + limits.floor
    better = met | (norm < best.norm)
    keep = samples.per_sample(better, w)
    solved, least = met | best.solved, torch.where(better, norm, best.norm)
    stale = torch.where(better, 0, best.stale + 1)
    hopeless = (stale >= limits.patience) | least.isinf()
    return _Best(
        w=torch.where(keep, w, best.w),
        residual=torch.where(keep, residual, best.residual),
        norm=least,
        solved=solved,
        active=(solved | hopeless).logical_not(),
        stale=stale,
        evaluations=best.evaluations + best.active,
    )


def _step(
    w: Float[Tensor, " batch *shape"], jacobian: Float[Tensor, " batch dim dim"], best: _Best
) -> Float[Tensor, " batch *shape"]:
    """The Newton step, or a Picard step from the best iterate after one that was no better."""
    step = solve_shifted(jacobian, samples.flat(best.residual)).reshape(w.shape)
    failed = samples.per_sample(best.stale > 0, w)
    ahead = torch.where(failed, best.w + best.residual, w + step)
    return torch.where(samples.per_sample(best.active, w), ahead, w)
