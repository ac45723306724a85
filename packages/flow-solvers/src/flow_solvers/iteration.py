"""The loop that all fixed-point methods share: stopping, freezing, safeguards, compaction."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from flow_solvers import samples
from flow_solvers.ledger import Counts, Flags, Ledger, Numbers, every
from flow_solvers.maps import BoundMap, Index, Linearization
from flow_solvers.recorded import Remembering
from flow_solvers.solution import Solution
from flow_solvers.tolerance import Tolerance, require_same_shape


class Method(ABC):
    """One solve by one method: its memory, and the increments that it proposes.

    Where numbers of a sample are so large or so small that their squares may not fit the dtype, w
    and the residual that a method sees of it are both multiplied by one power of two, for the whole
    solve, and its increments are taken in the same unit. `evaluate` sees w itself.

    Attributes:
        growth: A sample whose residual exceeds `growth` times its best one is taken back to its
            best iterate; what the bad step taught is kept, so that the next one is another.
        coast: From the start on, plain Picard steps are made as long as this many more of them,
            contracting like the last one, will solve every sample: they cost nothing to find, and
            those that cannot solve any yet are not even looked at.
        linearization: Of G at the last point, for methods that have it.
    """

    growth: float = math.inf
    coast: int = 0
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
class _Outcome:
    """What is known of the samples of the whole batch."""

    value: Float[Tensor, " batch *shape"]
    norm: Numbers
    status: Counts
    evaluations: Counts

    def store(self, rows: Counts, part: "_Outcome") -> None:
        """Put the outcome of some samples in their places."""
        self.value.index_copy_(0, _on(rows, self.value), part.value)
        self.norm[rows], self.status[rows] = part.norm, part.status
        self.evaluations[rows] = part.evaluations


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
        self.method, self.bound, self.x = method, bound, x
        self.w = self.start = self.best = start
        self.residual = self.best_residual = x
        self.rtol = tolerance.relative(x.dtype)
        self.floor: float | Numbers = tolerance.floor(x)
        self.patience = patience
        self.ledger: Ledger | None = None
        self.rows: Counts | None = None
        self.outcome: _Outcome | None = None
        self.unit: Float[Tensor, " batch *ones"] | None = None
        self.remembered: Linearization | None = None
        self.settled: Flags | None = None

    def run(self, budget: int) -> Solution:
        """Evaluate until every sample is solved or given up."""
        calls = 1
        ledger = self._evaluate(1)
        while calls < budget and not every(ledger.done):
            self._compact(ledger)
            self._move(ledger)
            unseen = min(ledger.unseen, budget - calls - 1)
            for _ in range(unseen):
                self.w = self.x - self._image()
            calls += unseen + 1
            wanted = isinstance(self.bound, Remembering)
            self._evaluate(unseen + 1, ends=wanted and ledger.may_end_after(unseen + 1))
        return self._solution(ledger, calls)

    def _evaluate(self, evaluations: int, *, ends: bool = False) -> Ledger:
        value = self._recorded_image() if ends else self._image()
        require_same_shape(value, self.w)
        self.residual = self.x - self.w
        self.residual -= value
        measured = self.residual, self.w, value
        if self.ledger is None:
            sizes, *lengths = self._rescaled(samples.safe_lengths(self.x, *measured))
            ledger = self.ledger = self._open(sizes)
        else:
            lengths, ledger = [*samples.lengths(*measured)], self.ledger
        norm, size_w, size_value = lengths
        self.settled = ledger.solved
        ledger.judge(norm, size_w, size_value, evaluations)
        self._keep_best(ledger.better)
        return ledger

    def _image(self) -> Float[Tensor, " batch *shape"]:
        """G(w), in the units of the samples as w is."""
        self.remembered = None
        if self.unit is None:
            return self.method.evaluate(self.bound, self.w)
        return self.method.evaluate(self.bound, self.w / self.unit) * self.unit

    def _recorded_image(self) -> Float[Tensor, " batch *shape"]:
        """The same, with a record where one is wanted and methods leave the evaluation to us."""
        plain = type(self.method).evaluate is Method.evaluate
        if not (plain and self.unit is None and isinstance(self.bound, Remembering)):
            return self._image()
        self.remembered = self.bound.remember(self.w)
        return self.remembered.value

    def _rescaled(
        self, lengths: Float[np.ndarray, " tensors batch"]
    ) -> Float[np.ndarray, " tensors batch"]:
        """Norms of x, r, w and G(w) in units in which their squares fit, as everything is then."""
        exponents = samples.exponents(lengths.max(0), self.x.dtype)
        if exponents is None:
            return lengths
        units = np.ldexp(1.0, exponents)
        self.unit = unit = samples.per_sample(_on(units, self.w), self.w).to(self.w.dtype)
        self.x, self.w, self.residual = self.x * unit, self.w * unit, self.residual * unit
        self.best, self.best_residual = self.w, self.residual
        tiny = torch.finfo(self.w.dtype).tiny  # what makes the floor more than zero, in any unit
        self.floor = tiny + (self.floor - tiny) * units
        lengths *= units
        return lengths

    def _open(self, sizes: Numbers) -> Ledger:
        return Ledger(
            sizes,
            self.rtol,
            self.floor,
            patience=self.patience,
            growth=self.method.growth,
            coast=self.method.coast,
        )

    def _keep_best(self, better: Flags) -> None:
        if every(better):
            self.best, self.best_residual = self.w, self.residual
        elif np.count_nonzero(better):
            keep = self._mask(better)
            self.best = torch.where(keep, self.w, self.best)
            self.best_residual = torch.where(keep, self.residual, self.best_residual)

    def _mask(self, flags: Flags) -> Bool[Tensor, " batch *ones"]:
        return samples.per_sample(_on(flags, self.w), self.w)

    def _move(self, ledger: Ledger) -> None:
        w, residual, reset = self.w, self.residual, None
        self.method.learn(w, residual, not every(np.isfinite(ledger.norm)))
        if np.count_nonzero(ledger.reset):
            reset, back = _on(ledger.reset, w), self._mask(ledger.reset)
            w = torch.where(back, self.best, w)
            residual = torch.where(back, self.best_residual, residual)
        ahead = w + (residual if ledger.coasting else self.method.propose(w, residual, reset))
        if np.count_nonzero(ledger.done):
            ahead = torch.where(self._mask(ledger.done), w, ahead)
        self.w = ahead

    def _compact(self, ledger: Ledger) -> None:
        """Leave the finished samples behind once they are half of the batch."""
        index = np.flatnonzero(~ledger.done)
        if not samples.worth_compacting(len(index), self.w):
            return
        part = self._part(ledger)
        if self.outcome is None or self.rows is None:
            # The best iterate may still be the start, which belongs to the caller.
            self.outcome, self.rows = replace(part, value=part.value.clone()), index
        else:
            self.outcome.store(self.rows, part)
            self.rows = self.rows[index]
        ledger.select(index)
        self._select(index)

    def _select(self, index: Counts) -> None:
        rows = _on(index, self.w)
        self.bound = self.bound.select(rows)
        self.method.select(rows)
        self.x, self.w, self.residual = self.x[rows], self.w[rows], self.residual[rows]
        self.best, self.best_residual = self.best[rows], self.best_residual[rows]
        self.unit = None if self.unit is None else self.unit[rows]

    def _part(self, ledger: Ledger) -> _Outcome:
        """What is known of the samples that are still in the batch."""
        value, unseen = self.best, np.isinf(ledger.best)
        if np.count_nonzero(unseen):
            value = torch.where(self._mask(unseen), math.nan, value)
        # Copies: later parts are stored into what becomes the outcome.
        norm = ledger.best.copy()
        if self.unit is not None:
            value = value / self.unit
            norm /= self.unit.reshape(len(norm)).numpy(force=True)
        return _Outcome(value, norm, ledger.status(), ledger.evaluations.copy())

    def _is_at_best(self, ledger: Ledger) -> bool:
        """Whether w is the best iterate of all samples: those solved before have not moved."""
        return every(ledger.better if self.settled is None else ledger.better | self.settled)

    def _solution(self, ledger: Ledger, calls: int) -> Solution:
        outcome = self._part(ledger)
        kept = None
        if self.outcome is not None and self.rows is not None:
            self.outcome.store(self.rows, outcome)
            outcome = self.outcome
        elif self._is_at_best(ledger) and self.unit is None:
            kept = self.method.linearization if self.remembered is None else self.remembered
        value = outcome.value
        rms = outcome.norm / math.sqrt(max(samples.flat(self.x).shape[1], 1))
        return Solution(
            value=value.clone() if value is self.start else value,  # the start is the caller's
            residual=_on(rms, value).to(value.dtype),
            evaluations=_on(outcome.evaluations, value),
            status=_on(outcome.status, value),
            error_bound=None,
            calls=calls,
            linearization=kept,
        )


def _on(array: Shaped[np.ndarray, " batch"], like: Tensor) -> Shaped[Tensor, " batch"]:
    """An array of the host on the device of a tensor."""
    tensor = torch.from_numpy(array)
    return tensor.to(like.device) if like.is_cuda else tensor


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
