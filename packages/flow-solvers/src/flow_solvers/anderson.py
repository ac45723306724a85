"""Anderson acceleration of type II."""

import itertools
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow_solvers import samples
from flow_solvers.iteration import Method, iterate
from flow_solvers.maps import BoundMap, Index
from flow_solvers.solution import Solution
from flow_solvers.tolerance import Tolerance

# Samples that so many Picard steps will solve are not accelerated: that would save a step or two.
_COAST = 6


@dataclass(frozen=True)
class Anderson:
    """w ← w + r - Σ γⱼ(Δwⱼ + Δrⱼ), where γ minimises |r - Σ γⱼ Δrⱼ| (Walker and Ni 2011, type II).

    The least-squares problem is solved per sample by normal equations of unit columns in float64,
    so that the ridge is relative and nothing depends on the scale of x. A sample that a few Picard
    steps will solve just makes them.

    Attributes:
        memory: Differences that are kept, the oldest is overwritten; at most `dim` are used.
        ridge: Relative ridge of the normal equations.
        budget: Evaluations of G.
        patience: Evaluations without a better residual after which a sample has stalled.
        growth: A residual this many times the best one takes the sample back to its best iterate.
    """

    memory: int = 5
    ridge: float = 1e-10
    budget: int = 300
    patience: int = 10
    growth: float = 2.0

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(f"expected a memory of at least 1, got {self.memory}")
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
        memory = max(1, min(self.memory, samples.flat(x).shape[1]))
        return iterate(
            _AndersonMethod(memory, self.ridge, self.growth),
            bound,
            x,
            start,
            tolerance,
            budget=self.budget,
            patience=self.patience,
        )


@final
class _AndersonMethod(Method):
    """Differences of residuals, scaled to length one, and of w + r in the same scale."""

    coast = _COAST

    def __init__(self, memory: int, ridge: float, growth: float) -> None:
        self.memory = memory
        self.ridge = ridge
        self.growth = growth
        self.count = 0
        # (w + r, r) of the evaluations whose differences are still to be formed.
        self.recent: list[tuple[Tensor, Tensor]] = []
        self.doubtful = False
        self.residuals: Float[Tensor, " batch memory dim"] | None = None
        self.images: Float[Tensor, " batch memory dim"] | None = None
        self.gram: Float[Tensor, " batch memory memory"] | None = None

    def learn(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        doubtful: bool,
    ) -> None:
        self.doubtful = self.doubtful or doubtful
        self.recent = [*self.recent[-self.memory :], _image_and_residual(w, residual)]

    def propose(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        reset: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch *shape"]:
        for before, after in itertools.pairwise(self.recent):
            self._remember(after[1] - before[1], after[0] - before[0])
        last = self.recent[-1] if reset is None else _image_and_residual(w, residual)
        self.recent, self.doubtful = [last], False
        return self._accelerate(last[1]).reshape(w.shape)

    def _remember(
        self, change: Float[Tensor, " batch dim"], image: Float[Tensor, " batch dim"]
    ) -> None:
        if self.doubtful:
            change, image = samples.finite_or_zero(change), samples.finite_or_zero(image)
        residuals, images, gram = self._make_room(change)
        # An empty column (a sample that was reset, or does not move any more) stays empty.
        length: Tensor = torch.linalg.vector_norm(change, dim=1, keepdim=True, dtype=torch.float64)
        scale = length.reciprocal_().nan_to_num_(0.0, 0.0, 0.0).to(change.dtype)
        slot, used = self.count % self.memory, min(self.count + 1, self.memory)
        column = torch.mul(change, scale, out=residuals[:, slot])
        torch.mul(image, scale, out=images[:, slot])
        products = torch.bmm(residuals[:, :used], column.unsqueeze(2)).squeeze(2)
        gram[:, slot, :used] = gram[:, :used, slot] = products
        gram[:, slot, slot] = 1 + self.ridge
        self.count += 1

    def _make_room(self, like: Float[Tensor, " batch dim"]) -> tuple[Tensor, Tensor, Tensor]:
        if self.residuals is None or self.images is None or self.gram is None:
            self.residuals = like.new_empty(len(like), self.memory, like.shape[1])
            self.images = torch.empty_like(self.residuals)
            shape = len(like), self.memory, self.memory
            self.gram = like.new_empty(shape, dtype=torch.float64)
        return self.residuals, self.images, self.gram

    def _accelerate(self, residual: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        """R - Σ γⱼ fⱼ with (D + ridge·I) γ = d, for the Gram matrix D of unit columns."""
        if self.residuals is None or self.images is None or self.gram is None:
            return residual
        used, column = min(self.count, self.memory), residual.unsqueeze(2)
        target = torch.bmm(self.residuals[:, :used], column).squeeze(2).double()
        weights: Tensor = torch.linalg.solve_ex(self.gram[:, :used, :used], target)[0]
        weights = weights.nan_to_num_(0.0, 0.0, 0.0).to(residual.dtype).unsqueeze(2)
        return torch.baddbmm(column, self.images[:, :used].mT, weights, alpha=-1).squeeze(2)

    def select(self, index: Index) -> None:
        self.recent = [(image[index], residual[index]) for image, residual in self.recent]
        self.residuals = None if self.residuals is None else self.residuals[index]
        self.images = None if self.images is None else self.images[index]
        self.gram = None if self.gram is None else self.gram[index]


def _image_and_residual(
    w: Float[Tensor, " batch *shape"], residual: Float[Tensor, " batch *shape"]
) -> tuple[Tensor, Tensor]:
    rows = samples.flat(residual)
    return samples.flat(w) + rows, rows
