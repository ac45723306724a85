"""Newton's method for fused maps: every evaluation with all that follows from it is one function.

Small problems spend their time in launching operations and in the loop around them. Here they are
pure functions of tensors, which a map may compile as a whole, several evaluations at a time.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow_solvers import samples
from flow_solvers.maps import FusedMap, Index, PureMap
from flow_solvers.shifted import solve_shifted
from flow_solvers.solution import Solution, Status
from flow_solvers.tolerance import Tolerance


class Best(NamedTuple):
    """The best iterate of every sample and how long ago it was found."""

    w: Float[Tensor, " batch dim"]
    residual: Float[Tensor, " batch dim"]
    norm: Float[Tensor, " batch"]
    unsolved: Bool[Tensor, " batch"]
    stale: Int[Tensor, " batch"]
    evaluations: Int[Tensor, " batch"]


class Limits(NamedTuple):
    """When a sample is solved, when it is given up, and evaluations until someone looks."""

    rtol: float
    floor: float
    patience: int
    steps: int


@final
class Descent:
    """Newton's method as long as no sample has to be given up.

    Args:
        bound: G.
        x: Right-hand side.
        start: First iterate.
        tolerance: When a sample counts as solved.
        patience: Evaluations without a better residual after which a sample is given up.

    Attributes:
        best: Every sample's best iterate.
        calls: Batched evaluations so far.
    """

    def __init__(
        self,
        bound: FusedMap,
        x: Float[Tensor, " batch dim"],
        start: Float[Tensor, " batch dim"],
        tolerance: Tolerance,
        patience: int,
    ) -> None:
        self._bound, self._x, self._next = bound, x, start
        floor = tolerance.atol * math.sqrt(x.shape[1]) + torch.finfo(x.dtype).tiny
        self._limits = Limits(tolerance.relative(x.dtype), floor, patience, bound.unroll)
        zeros = torch.zeros_like(x[:, 0], dtype=torch.int64)
        norm = torch.full_like(x[:, 0], math.inf)
        self.best = Best(start, x, norm, zeros == 0, zeros, zeros.clone())
        self.calls = 0
        self._wider: list[tuple[Index, FusedMap, Tensor, tuple[Tensor, ...]]] = []

    def run(self, budget: int) -> bool:
        """Whether every sample was solved; else one was given up, or one evaluation is left.

        Once half of a large batch is solved, the rest goes on alone.
        """
        solved = self._run(budget)
        self._widen()
        return solved

    def _run(self, budget: int) -> bool:
        while self.calls + 1 < budget:
            steps = 1 if self.calls else min(self._limits.steps, budget - 1)
            self.calls += steps
            limits = self._limits._replace(steps=steps)
            counts, *state = self._bound.run(_descend, self._next, self._x, self.best, limits)
            self._take(state)
            unsolved, hopeless = counts.tolist()
            if hopeless or not unsolved:
                return not unsolved
            if samples.worth_compacting(unsolved, self._x):
                self._narrow()
        return False

    def _take(self, state: Sequence[Tensor]) -> None:
        self._next, self._value, self._jacobian, *best = state
        self.best = Best(*best)

    def _state(self) -> tuple[Tensor, ...]:
        return (self._next, self._value, self._jacobian, *self.best)

    def _narrow(self) -> None:
        """Leave the solved samples behind."""
        index = self.best.unsolved.nonzero().flatten()
        self._wider.append((index, self._bound, self._x, self._state()))
        self._bound, self._x = self._bound.select(index), self._x[index]
        self._take([t[index] for t in self._state()])

    def _widen(self) -> None:
        """Put what was found for some samples in their places."""
        while self._wider:
            index, self._bound, self._x, state = self._wider.pop()
            parts = zip(state, self._state(), strict=True)
            self._take([whole.index_copy(0, index, part) for whole, part in parts])

    def solution(self) -> Solution:
        """What was found, once `run` has said that all is solved."""
        w, norm = self.best.w, self.best.norm
        return Solution(
            value=w,
            residual=norm / math.sqrt(w.shape[1]),
            evaluations=self.best.evaluations,
            status=torch.full_like(self.best.stale, int(Status.CONVERGED)),
            error_bound=None,
            calls=self.calls,
            linearization=self._bound.linearization(w, self._value, self._jacobian),
        )


def _descend(
    pure: PureMap,
    w: Float[Tensor, " batch dim"],
    x: Float[Tensor, " batch dim"],
    best: Best,
    limits: Limits,
) -> tuple[Tensor, ...]:
    """How many are unsolved and hopeless, the next iterate, G and J at the last one, the best."""
    ahead, value, jacobian = w, w, w
    for _ in range(limits.steps):
        w = ahead
        value, jacobian = pure.value_and_jacobian(w)
        solved, best = _judge(w, value, x, best, limits)
        step = w + solve_shifted(jacobian, best.residual)
        ahead = torch.where((best.stale > 0).unsqueeze(1), best.w + best.residual, step)
        ahead = torch.where(solved.unsqueeze(1), w, ahead)
    hopeless = (best.stale >= limits.patience) | best.norm.isinf()
    counts = torch.stack((best.unsolved.sum(), hopeless.sum()))
    return counts, ahead, value, jacobian, *best


def _judge(
    w: Float[Tensor, " batch dim"],
    value: Float[Tensor, " batch dim"],
    x: Float[Tensor, " batch dim"],
    best: Best,
    limits: Limits,
) -> tuple[Bool[Tensor, " batch"], Best]:
    """Which samples are solved, and the best iterates now."""
    residual = x - w - value
    norm = samples.norm(residual)
    scale = samples.norm(x) + samples.norm(w) + samples.norm(value)
    solved = norm < limits.rtol * scale + limits.floor
    better = solved | (norm < best.norm)
    keep = better.unsqueeze(1)
    return solved, Best(
        w=torch.where(keep, w, best.w),
        residual=torch.where(keep, residual, best.residual),
        norm=torch.where(better, norm, best.norm),
        unsolved=solved.logical_not(),
        stale=torch.where(better, 0, best.stale + 1),
        evaluations=best.evaluations + best.unsolved,
    )


def pull_root(
    pure: PureMap,
    w: Float[Tensor, " batch dim"],
    jacobian: Float[Tensor, " batch dim dim"],
    cotangents: tuple[Tensor, Tensor | None],
    rtol: float,
) -> tuple[Tensor, ...]:
    """Gradients of ⟨w, a⟩ + ⟨J(w), A⟩ at w + G(w) = x, by x and the tensors, for (a, A).

    With g = a + ∂⟨J, A⟩/∂w and (I + Jᵀ) v = g they are v and ∂⟨J, A⟩/∂θ - vᵀ ∂G/∂θ. Between them
    is the number of samples that miss |g - v - Jᵀv| ≤ rtol·|g|.
    """
    along, along_jacobian = cotangents
    direct: tuple[Tensor, ...] = ()
    if along_jacobian is not None:
        by_w, direct = pure.pull_jacobian(w, along_jacobian)
        along = along + by_w
    solved = solve_shifted(jacobian.mT, along)
    solved = solved + solve_shifted(jacobian.mT, _adjoint_residual(jacobian, solved, along))
    missed = samples.norm(_adjoint_residual(jacobian, solved, along))
    failures = (missed <= rtol * samples.norm(along)).logical_not().sum()
    _, through = pure.pull_value(w, -solved)
    grads = [a + b for a, b in zip(direct, through, strict=True)] if direct else through
    return solved, failures, *grads


def _adjoint_residual(
    jacobian: Float[Tensor, " batch dim dim"],
    solved: Float[Tensor, " batch dim"],
    along: Float[Tensor, " batch dim"],
) -> Float[Tensor, " batch dim"]:
    return along - solved - (jacobian * solved.unsqueeze(2)).sum(1)
