"""What a solve knows of its samples, as numbers on the host.

The numbers are few: reading all of them costs as much as reading one flag, and deciding by them
costs a tenth of what operations on tensors would.
"""

from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from flow_solvers.solution import Status

Numbers: TypeAlias = Float[np.ndarray, " batch"]
Flags: TypeAlias = Bool[np.ndarray, " batch"]
Counts: TypeAlias = Int[np.ndarray, " batch"]

# Room for a sample to contract faster than it did: steps that are made unseen, of those expected.
_CAUTION = 0.75
# A look at a residual that may be so much above the limit, by the rate of the last step, is
# expected to be the last one: to record in vain costs little, not to record a whole evaluation.
_HOPE = 30.0


def every(flags: Flags) -> bool:
    """Whether all are set; several times faster than `all`."""
    return bool(np.count_nonzero(flags) == flags.size)


class Ledger:
    """Which samples are solved, given up or to be taken back, and whether all are coasting.

    Args:
        sizes: Norms of the right-hand sides.
        rtol: Relative tolerance.
        floor: Absolute tolerance of a norm, one for all or one per sample.
        patience: Evaluations without a better residual after which a sample is given up.
        growth: A residual this many times the best one is to be taken back.
        coast: The batch coasts, from its start on, while this many Picard steps will solve it.

    Attributes:
        norm: Norms of the last residuals.
        best: The least norms so far.
        better: Whose last residual is the best, or is good enough.
        solved: Which samples are solved.
        done: Which samples are solved or given up.
        reset: Which are to be taken back to their best iterates.
        coasting: Whether Picard steps are all that is needed.
        unseen: Picard steps that can be made before the first sample may be solved.
        evaluations: How many there were while a sample was not done.
    """

    def __init__(
        self,
        sizes: Numbers,
        rtol: float,
        floor: float | Numbers,
        *,
        patience: int,
        growth: float,
        coast: int,
    ) -> None:
        self._threshold, self._rtol = rtol * sizes + floor, rtol
        self._patience, self._growth, self._coast = patience, growth, coast
        none: Flags = np.zeros(sizes.shape, np.bool_)
        self.norm = self.best = np.full(sizes.shape, np.inf)
        self.solved = self.better = self.done = self.reset = none
        self.coasting = coast > 0
        self.unseen = 0
        self._before, self._limit = self.best, self._threshold
        self._none, self._fresh = none, np.zeros(sizes.shape, np.int64)
        self.evaluations = self._stale = self._fresh

    @np.errstate(all="ignore")
    def judge(
        self, norm: Numbers, size_w: Numbers, size_value: Numbers, evaluations: int = 1
    ) -> None:
        """Take note of the last of some evaluations.

        Args:
            norm: Norms of the residuals.
            size_w: Norms of the iterates.
            size_value: Norms of G there.
            evaluations: How many were made since the last note.
        """
        self.evaluations = self.evaluations + evaluations * ~self.done
        limit = self._threshold + self._rtol * (size_w + size_value)
        # A strict comparison keeps out infinities and NaN; sizes that overflow tell nothing.
        met = (norm < limit) & (limit < np.inf)
        self._before, self._limit = self.best, limit
        self.norm, self.better = norm, met | (norm < self.best)
        if self.coasting:
            self._foresee(limit)
        self.solved = self.solved | met
        if every(self.better):
            self.best, self.done = norm, self.solved
            self._stale, self.reset = self._fresh, self._none
        else:
            self._merge()

    @np.errstate(all="ignore")
    def may_end_after(self, steps: int) -> bool:
        """Whether so many steps, as good as the last one, may well solve every sample."""
        # Nothing is known of a first step.
        rate = np.where(self._before < np.inf, self.norm / self._before, 1.0)
        ahead = self.norm * np.minimum(rate, 1.0) ** steps
        return every((ahead < _HOPE * self._limit) | self.done)

    def _foresee(self, limit: Numbers) -> None:
        """Count the steps to the tolerance at the rate of the last one."""
        steps = np.log(self.norm / limit) / np.log(self.best / self.norm)
        self.coasting = steps.size > 0 and every(self.better & (steps < self._coast))
        self.unseen = int(max(_CAUTION * steps.min(), 0)) if self.coasting else 0

    def _merge(self) -> None:
        self.best = np.where(self.better, self.norm, self.best)
        self._stale = np.where(self.better, 0, self._stale + 1)
        self.done = self.solved | (self._stale >= self._patience) | np.isinf(self.best)
        self.reset = ~(self.norm <= self._growth * self.best) & ~self.done

    def status(self) -> Counts:
        """A `Status` per sample, if no further evaluation is made."""
        if every(self.solved):
            return self._fresh.copy()
        status = np.where(self.done, int(Status.STALLED), int(Status.BUDGET))
        status[np.isinf(self.best)] = Status.NONFINITE
        status[self.solved] = Status.CONVERGED
        return status

    def select(self, index: Int[np.ndarray, " selected"]) -> None:
        """Keep a subset of the batch: every array has a number per sample."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                kept: np.ndarray[Any, Any] = value[index]
                setattr(self, name, kept)
