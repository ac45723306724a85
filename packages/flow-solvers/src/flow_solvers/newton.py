"""Newton's method for small dimensions: every evaluation with all that follows is one function."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow_solvers import samples
from flow_solvers.arguments import require_integer
from flow_solvers.compiled import compiled, run
from flow_solvers.jacobian import JacobianLinearization
from flow_solvers.maps import BoundMap, Index
from flow_solvers.shifted import solve_shifted
from flow_solvers.solution import Solution, Status
from flow_solvers.tolerance import Tolerance, require_same_shape

# For w and G(w) beside x.
_ROOM = 16


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
        require_integer("budget", self.budget, 1)
        require_integer("patience", self.patience, 1)

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
            patience=self.patience,
            steps=1 if whole is None else whole.unroll,
        )
        size = samples.norm(x)
        # Sizes that overflow would let anything pass, and NaN lets nothing.
        size = torch.where(size > torch.finfo(x.dtype).max / _ROOM, math.nan, size)
        threshold = limits.rtol * size + tolerance.floor(x)
        return _Descent(bound, start, _Target(x, threshold), limits).run(self.budget)


class _Target(NamedTuple):
    """The right-hand side, and rtol·|x| + floor."""

    x: Float[Tensor, " batch *shape"]
    threshold: Float[Tensor, " batch"]


class _Limits(NamedTuple):
    """When a sample is solved, when it is given up, and evaluations until someone looks."""

    rtol: float
    patience: int
    steps: int


class _State(NamedTuple):
    """G and J at the last point, the best iterates, and whether a better one is sought.

    A sample is active until it is solved or was not improved for too long.
    """

    value: Tensor | None
    jacobian: Tensor | None
    w: Float[Tensor, " batch *shape"]
    residual: Float[Tensor, " batch *shape"]
    norm: Float[Tensor, " batch"]
    unsolved: Bool[Tensor, " batch"]
    active: Bool[Tensor, " batch"]
    stale: Int[Tensor, " batch"]
    evaluations: Int[Tensor, " batch"]


def _first_state(start: Tensor, target: _Target, patience: int) -> _State:
    norm = torch.full_like(target.threshold, math.inf)
    none = torch.zeros_like(norm, dtype=torch.int64)
    everyone = none == 0
    stale = none + (patience - 1)  # a first residual that is not finite ends its sample
    return _State(None, None, start, target.x, norm, everyone, everyone, stale, none)


def _tensors(w: Tensor, state: _State) -> list[Tensor]:
    return [w, *[tensor for tensor in state if tensor is not None]]


@final
class _Descent:
    """One solve: looks at the state between evaluations, and leaves finished samples behind."""

    def __init__(
        self,
        bound: BoundMap,
        start: Float[Tensor, " batch *shape"],
        target: _Target,
        limits: _Limits,
    ) -> None:
        self._bound, self._target, self._limits = bound, target, limits
        self._last, self._state = start, _first_state(start, target, limits.patience)
        self._calls = self._given_up = 0
        self._wider: list[tuple[Index, BoundMap, _Target, list[Tensor]]] = []

    def run(self, budget: int) -> Solution:
        """Evaluate until every sample is solved or given up, or the budget ends.

        Once half of a large batch is finished, the rest goes on alone.
        """
        active, unsolved = self._evaluate(min(self._limits.steps, budget))
        while active and self._calls < budget:
            if samples.worth_compacting(active, self._target.x):
                self._narrow()
                self._given_up += unsolved - active
            active, unsolved = self._evaluate(1)
        self._widen()
        return self._solution(all_solved=self._given_up + unsolved == 0)

    def _evaluate(self, steps: int) -> list[int]:
        """How many samples are still active, and how many are not solved."""
        self._calls += steps
        limits = self._limits._replace(steps=steps)
        results = run(_descend, self._bound, self._last, self._state, self._target, limits)
        self._take(results[1:])
        numbers: list[int] = results[0].tolist()
        return numbers

    def _take(self, tensors: Sequence[Tensor]) -> None:
        self._last, *state = tensors
        self._state = _State(*state)

    def _narrow(self) -> None:
        """Leave the finished samples behind."""
        index = self._state.active.nonzero().flatten()
        self._wider.append((index, self._bound, self._target, _tensors(self._last, self._state)))
        self._bound = self._bound.select(index)
        self._target = _Target(*(t[index] for t in self._target))
        self._take([t[index] for t in _tensors(self._last, self._state)])

    def _widen(self) -> None:
        """Put what was found for some samples in their places."""
        while self._wider:
            index, self._bound, self._target, tensors = self._wider.pop()
            parts = zip(tensors, _tensors(self._last, self._state), strict=True)
            self._take([whole.index_copy(0, index, part) for whole, part in parts])

    def _solution(self, *, all_solved: bool) -> Solution:
        state = self._state
        status, w, linearization = torch.zeros_like(state.stale), state.w, None
        if all_solved:  # and so the last evaluation of every sample was at its solution
            assert state.value is not None
            assert state.jacobian is not None
            linearization = JacobianLinearization(self._bound, w, state.value, state.jacobian)
        else:
            status, unseen = _status(state), state.norm.isinf()
            w = torch.where(samples.per_sample(unseen, w), math.nan, w)
        return Solution(
            value=w,
            residual=state.norm / math.sqrt(max(samples.flat(w).shape[1], 1)),
            evaluations=state.evaluations,
            status=status,
            error_bound=None,
            calls=self._calls,
            linearization=linearization,
        )


def _status(state: _State) -> Int[Tensor, " batch"]:
    status = torch.where(state.active, int(Status.BUDGET), int(Status.STALLED))
    status = torch.where(state.norm.isinf(), int(Status.NONFINITE), status)
    return torch.where(state.unsolved, status, int(Status.CONVERGED))


def _descend(
    bound: BoundMap,
    w: Float[Tensor, " batch *shape"],
    state: _State,
    target: _Target,
    limits: _Limits,
) -> tuple[Tensor, ...]:
    """How many are active and unsolved, the last point and the state there."""
    for _ in range(limits.steps):
        if state.jacobian is not None:
            w = _step(w, state, state.jacobian)
        at = bound.linearize(w)
        value = at.value
        require_same_shape(value, w)
        state = _judge(w, value, state._replace(jacobian=at.jacobian()), target, limits)
    counts = torch.stack((state.active, state.unsolved)).sum(1)
    return counts, *_tensors(w, state)


def _step(
    w: Float[Tensor, " batch *shape"], state: _State, jacobian: Float[Tensor, " batch dim dim"]
) -> Float[Tensor, " batch *shape"]:
    """The Newton step, or a Picard step from the best iterate after one that was no better."""
    newton = solve_shifted(jacobian, samples.flat(state.residual)).reshape(w.shape)
    step = torch.where(samples.per_sample(state.stale == 0, w), newton, state.residual)
    return torch.where(samples.per_sample(state.active, w), state.w + step, w)


def _judge(
    w: Float[Tensor, " batch *shape"],
    value: Float[Tensor, " batch *shape"],
    state: _State,
    target: _Target,
    limits: _Limits,
) -> _State:
    """What is known after an evaluation."""
    residual = target.x - w - value
    norm = samples.norm(residual)
    scale = samples.norm(w) + samples.norm(value)
    # A strict comparison keeps out infinities and NaN.
    met = norm < torch.add(target.threshold, scale, alpha=limits.rtol)
    better = met | (norm < state.norm)
    keep = samples.per_sample(better, w)
    unsolved = state.unsolved & ~met
    stale = torch.where(better, 0, state.stale + 1)
    return _State(
        value=value,
        jacobian=state.jacobian,
        w=torch.where(keep, w, state.w),
        residual=torch.where(keep, residual, state.residual),
        norm=torch.where(better, norm, state.norm),
        unsolved=unsolved,
        active=unsolved & (stale < limits.patience),
        stale=stale,
        evaluations=state.evaluations + state.active,
    )
