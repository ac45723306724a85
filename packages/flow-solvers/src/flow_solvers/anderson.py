"""Anderson acceleration of type II, with Picard steps in between."""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow_solvers import samples
from flow_solvers.arguments import require_integer, require_number
from flow_solvers.iteration import Method, iterate
from flow_solvers.maps import BoundMap, Index
from flow_solvers.precision import in_float64
from flow_solvers.solution import Solution
from flow_solvers.tolerance import Tolerance

# A batch that so many Picard steps will solve is not accelerated: that would save a step or two.
_COAST = 5


@dataclass(frozen=True)
class Anderson:
    """w ← w + r - Σ γⱼ(Δwⱼ + Δrⱼ), where γ minimises |r - Σ γⱼ Δrⱼ| (Walker and Ni 2011, type II).

    The least-squares problem is solved per sample by normal equations in float64, with a ridge
    relative to each column, so that nothing depends on the scale of x. A batch that a few Picard
    steps will solve just makes them; this is all that samples know of each other.

    Attributes:
        memory: Differences that are kept, the oldest is overwritten; at most `dim` are used.
        ridge: Relative ridge of the normal equations.
        budget: Evaluations of G.
        patience: Evaluations without a better residual after which a sample has stalled.
        growth: A residual this many times the best one takes the sample back to its best iterate.
        period: Every so many steps one is accelerated, the others are Picard steps (Banerjee,
            Suryanarayana and Pask 2016). That needs fewer evaluations on hard problems, and each
            costs less; 1 accelerates every step, as is done where the memory spans the space.
    """

    memory: int = 5
    ridge: float = 1e-10
    budget: int = 300
    patience: int = 10
    growth: float = 2.0
    period: int = 3

    def __post_init__(self) -> None:
        for name in ("memory", "budget", "patience", "period"):
            require_integer(name, getattr(self, name), 1)
        require_number("ridge", self.ridge)
        require_number("growth", self.growth)
        if self.ridge < 0:
            raise ValueError(f"expected a ridge ≥ 0, got {self.ridge}")

    def solve(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        tolerance: Tolerance,
    ) -> Solution:
        """Solve w + G(w) = x from `start`."""
        dim = samples.flat(x).shape[1]
        # A memory that spans the whole space leaves nothing to Picard steps.
        period = self.period if dim > self.memory else 1
        memory = max(1, min(self.memory, dim))
        return iterate(
            _AndersonMethod(replace(self, memory=memory, period=period)),
            bound,
            x,
            start,
            tolerance,
            budget=self.budget,
            patience=self.patience,
        )


@final
class _AndersonMethod(Method):
    """Remembers residuals and iterates, oldest first."""

    coast = _COAST

    def __init__(self, settings: Anderson) -> None:
        self.settings = settings
        self.growth = settings.growth
        self.steps = 0
        self.recent: list[tuple[Tensor, Tensor]] = []

    def learn(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        doubtful: bool,
    ) -> None:
        rows, points = samples.flat(residual), samples.flat(w)
        if doubtful and self.recent:
            # What is not finite repeats what was before it, so that their difference is zero.
            sound = rows.isfinite().all(dim=1, keepdim=True)
            rows = torch.where(sound, rows, self.recent[-1][0])
            points = torch.where(sound, points, self.recent[-1][1])
        self.recent = [*self.recent[-self.settings.memory :], (rows, points)]

    def propose(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        reset: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch *shape"]:
        """R - Σ γⱼ(Δwⱼ + Δrⱼ), (D + ridge·diag D) γ = ⟨Δr, r⟩ for the Gram matrix D of the Δr.

        Weights are the same as for columns of unit length with a ridge on their Gram matrix.
        """
        del w, reset
        self.steps += 1
        if self.steps % self.settings.period or len(self.recent) == 1:
            return residual
        stacks = [torch.stack(part, dim=1) for part in zip(*self.recent, strict=True)]
        changes, moves = (stack[:, 1:] - stack[:, :-1] for stack in stacks)
        now = samples.flat(residual)
        target = in_float64(samples.products(changes, now))
        weights: Tensor = torch.linalg.solve_ex(self._gram(changes), target)[0]
        weights = weights.nan_to_num_(0.0, 0.0, 0.0).to(now)
        return samples.add_rows(now, weights, moves + changes, -1.0).reshape(residual.shape)

    def _gram(self, changes: Float[Tensor, " batch used dim"]) -> Float[Tensor, " batch used used"]:
        gram = in_float64(torch.bmm(changes, changes.mT))
        diagonal = gram.diagonal(dim1=1, dim2=2)
        # A zero column (a sample that was not finite, or does not move any more) gets weight zero.
        diagonal.mul_(1 + self.settings.ridge).add_(diagonal == 0)
        return gram

    def select(self, index: Index) -> None:
        self.recent = [(rows[index], points[index]) for rows, points in self.recent]
