"""The loop that all fixed-point methods share: stopping, freezing, safeguards, compaction."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow_solvers import samples
from flow_solvers.maps import BoundMap, Index, Linearization
from flow_solvers.solution import Solution, Status
from flow_solvers.tolerance import Tolerance

# Reading a flag waits for everything that a CUDA device has queued.
_CALLS_PER_SYNC_CUDA = 3


class Method(ABC):
    """One solve by one method: its memory, and the increments that it proposes.

    Attributes:
        growth: A sample whose residual exceeds `growth` times its best one is taken back to its
            best iterate; what the bad step taught is kept, so that the next one is another.
        linearization: Of G at the last point, for methods that have it.
    """

    growth: float = math.inf
    linearization: Linearization | None = None

    def evaluate(
        self, bound: BoundMap, w: Float[Tensor, " batch *shape"]
    ) -> Float[Tensor, " batch *shape"]:
        """G(w)."""
        return bound(w)

    def learn(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        doubtful: bool,
    ) -> None:
        """See where the last increment led; `doubtful` if some residuals may not be finite."""
        del w, residual, doubtful

    @abstractmethod
    def propose(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        reset: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch *shape"]:
        """The increment of w, from the residual x - w - G(w).

        Where `reset`, w is the best iterate of the sample and not the one that was seen last.
        """

    @abstractmethod
    def select(self, index: Index) -> None:
        """Keep the memory of a subset of the batch."""


@dataclass
class _Best:
    """The best iterate of every sample that is still in the batch."""

    value: Float[Tensor, " batch *shape"]
    residual: Float[Tensor, " batch *shape"]
    norm: Float[Tensor, " batch"]
    solved: Bool[Tensor, " batch"]

    def select(self, index: Index) -> "_Best":
        """The best iterates of a subset of the batch."""
        return _Best(self.value[index], self.residual[index], self.norm[index], self.solved[index])


@dataclass
class _Outcome:
    """What is known of the samples of the whole batch."""

    value: Float[Tensor, " batch *shape"]
    norm: Float[Tensor, " batch"]
    status: Int[Tensor, " batch"]
    evaluations: Int[Tensor, " batch"]

    def store(self, rows: Index, part: "_Outcome") -> None:
        """Put the outcome of some samples in their places."""
        self.value.index_copy_(0, rows, part.value)
        self.norm.index_copy_(0, rows, part.norm)
        self.status.index_copy_(0, rows, part.status)
        self.evaluations.index_copy_(0, rows, part.evaluations)


class _Iteration:
    """State of the loop; `run` is the loop."""

    def __init__(
        self,
        method: Method,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        *,
        tolerance: Tolerance,
        patience: int,
    ) -> None:
        self.method = method
        self.bound = bound
        self.x = x
        self.w = self.start = start
        self.patience = patience
        self.rtol = tolerance.relative(x.dtype)
        # The smallest normal number lets an exact zero pass a strict comparison, and a strict
        # comparison keeps out infinities and NaN.
        floor = tolerance.atol * math.sqrt(samples.flat(x).shape[1]) + torch.finfo(x.dtype).tiny
        self.threshold = samples.norm(x).mul_(self.rtol).add_(floor)
        unseen = torch.full_like(self.threshold, math.inf)
        self.best = _Best(start, x, unseen, torch.zeros_like(unseen, dtype=torch.bool))
        self.stale: Int[Tensor, " batch"] | None = None
        self.reset: Bool[Tensor, " batch"] | None = None
        self.seen = self.best
        self.done = self.best.solved
        self.finished = 0
        self.waiting: list[Bool[Tensor, " batch"]] = []
        self.evaluations = torch.ones_like(unseen, dtype=torch.int64)
        self.rows: Index | None = None
        self.outcome: _Outcome | None = None
        self.every = _CALLS_PER_SYNC_CUDA if x.is_cuda else 1

    def run(self, budget: int) -> Solution:
        """Evaluate until every sample is solved or given up."""
        calls = 0
        while True:
            calls += 1
            self._evaluate(read=self.every == 1 or calls % self.every == 0)
            if self.finished == self.done.numel() or calls >= budget:
                return self._solution(calls)
            self._compact()
            self._move()

    def _evaluate(self, read: bool) -> None:
        value = self.method.evaluate(self.bound, self.w)
        if value.shape != self.w.shape:
            raise ValueError(
                f"expected G(w) of the shape of w, {tuple(self.w.shape)}, got "
                f"{tuple(value.shape)}; G must map a space to itself"
            )
        residual = self.x - self.w
        residual -= value
        norm = samples.norm(residual)
        scale = samples.norm(self.w) + samples.norm(value)
        solved = norm < torch.add(self.threshold, scale, alpha=self.rtol)
        seen = self.seen = _Best(self.w, residual, norm, solved)
        better = (norm < self.best.norm).logical_or_(solved)
        if self.every == 1 and self._accept_all(seen, better):
            return
        self._accept_some(seen, better)
        if read:
            self.finished = int(self.done.count_nonzero())

    def _accept_all(self, seen: _Best, better: Bool[Tensor, " batch"]) -> bool:
        """The usual case, in which nothing has to be merged: every sample improved."""
        if not bool(better.all()):
            return False
        self.best, self.done = seen, seen.solved
        self.finished = int(seen.solved.count_nonzero())
        self.stale = self.reset = None
        return True

    def _accept_some(self, seen: _Best, better: Bool[Tensor, " batch"]) -> None:
        keep = samples.per_sample(better, self.w)
        best = self.best
        self.best = _Best(
            torch.where(keep, seen.value, best.value),
            torch.where(keep, seen.residual, best.residual),
            torch.where(better, seen.norm, best.norm),
            seen.solved.logical_or(best.solved),
        )
        stale = torch.zeros_like(better, dtype=torch.int64) if self.stale is None else self.stale
        self.stale = torch.where(better, 0, stale + 1)
        hopeless = (self.stale >= self.patience).logical_or_(self.best.norm.isinf())
        self.done = hopeless.logical_or_(self.best.solved)
        grown = (seen.norm <= self.method.growth * self.best.norm).logical_not_()
        self.reset = grown.logical_and_(self.done.logical_not())

    def _move(self) -> None:
        w, residual = self.seen.value, self.seen.residual
        self.method.learn(w, residual, self.reset is not None)
        if self.reset is not None:
            back = samples.per_sample(self.reset, w)
            w = torch.where(back, self.best.value, w)
            residual = torch.where(back, self.best.residual, residual)
        ahead = w + self.method.propose(w, residual, self.reset)
        if self.finished or self.every > 1:
            ahead = torch.where(samples.per_sample(self.done, w), w, ahead)
        self.w = ahead
        self.waiting.append(self.done)

    def _compact(self) -> None:
        """Leave the finished samples behind once they are half of the batch."""
        if not samples.worth_compacting(self.done.numel() - self.finished, self.w):
            return
        index = torch.nonzero(self.done.logical_not()).flatten()
        part = self._part()
        if self.outcome is None or self.rows is None:
            # The best iterate may still be the start, which belongs to the caller.
            self.outcome, self.rows = replace(part, value=part.value.clone()), index
        else:
            self.outcome.store(self.rows, part)
            self.rows = self.rows[index]
        self._select(index, part.evaluations[index])

    def _select(self, index: Index, evaluations: Int[Tensor, " selected"]) -> None:
        self.bound = self.bound.select(index)
        self.method.select(index)
        self.x, self.threshold = self.x[index], self.threshold[index]
        self.best, self.seen = self.best.select(index), self.seen.select(index)
        self.done = self.done[index]
        self.stale = None if self.stale is None else self.stale[index]
        self.reset = None if self.reset is None else self.reset[index]
        self.evaluations, self.waiting, self.finished = evaluations, [], 0

    def _part(self) -> _Outcome:
        """What is known of the samples that are still in the batch."""
        value, norm, solved = self.best.value, self.best.norm, self.best.solved
        status = solved.logical_not().to(torch.int64).mul_(int(Status.BUDGET))
        if self.stale is not None:
            unseen = norm.isinf()
            status = torch.where(self.done & ~solved, int(Status.STALLED), status)
            status = torch.where(unseen, int(Status.NONFINITE), status)
            value = torch.where(samples.per_sample(unseen, value), math.nan, value)
        evaluations = self.evaluations
        if self.waiting:
            evaluations = evaluations + torch.stack(self.waiting).logical_not_().sum(dim=0)
        return _Outcome(value, norm, status, evaluations)

    def _solution(self, calls: int) -> Solution:
        outcome = self._part()
        kept = None
        if self.outcome is not None and self.rows is not None:
            self.outcome.store(self.rows, outcome)
            outcome = self.outcome
        elif self.best.value is self.w:
            kept = self.method.linearization
        if outcome.value is self.start:  # it belongs to the caller
            outcome = replace(outcome, value=outcome.value.clone())
        rms = outcome.norm / math.sqrt(max(samples.flat(self.x).shape[1], 1))
        return Solution(outcome.value, rms, outcome.evaluations, outcome.status, None, calls, kept)


@torch.no_grad()
def iterate(
    method: Method,
    bound: BoundMap,
    x: Float[Tensor, " batch *shape"],
    start: Float[Tensor, " batch *shape"],
    tolerance: Tolerance,
    *,
    budget: int,
    patience: int,
) -> Solution:
    """Drive `method` on w + G(w) = x until every sample is solved or given up.

    Solved samples are frozen; a sample that has not improved on its best residual for `patience`
    evaluations has stalled; one that never had a finite residual is given up at once. Once half of
    a large batch is finished, the rest goes on alone.

    Raises:
        ValueError: `budget` is not positive, or G changes the shape.
    """
    if budget < 1:
        raise ValueError(f"expected a budget of at least one evaluation, got {budget}")
    return _Iteration(method, bound, x, start, tolerance=tolerance, patience=patience).run(budget)
