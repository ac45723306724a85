"""Broyden's good method with limited memory."""

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

# A rank-one update whose denominator is this small against |s|² would blow the inverse up.
_SMALLEST_DENOMINATOR = 1e-3


@dataclass(frozen=True)
class Broyden:
    """w ← w + H r with H ≈ (I + J)⁻¹ learned per sample, seeded with the identity.

    The seed makes the first step a Picard step: H = I + Σ u vᵀ, and with the step s = H r and the
    next p = H r₊ the good update (Broyden 1965) needs no further product,
    u = p/(sᵀ(s - p)), v = Hᵀ s, next step H₊ r₊ = p·sᵀs/(sᵀ(s - p)).

    Attributes:
        memory: Rank-one terms that are kept, the oldest is overwritten; at most 2·dim are used.
        budget: Evaluations of G.
        patience: Evaluations without a better residual after which a sample has stalled.
        growth: A residual this many times the best one takes the sample back to its best iterate
            and clears its memory.
    """

    memory: int = 10
    budget: int = 200
    patience: int = 10
    growth: float = 2.0

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(f"expected a memory of at least 1, got {self.memory}")

    def solve(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        tolerance: Tolerance,
    ) -> Solution:
        """Solve w + G(w) = x from `start`."""
        return iterate(
            _BroydenMethod(self.memory, self.growth),
            bound,
            x,
            start,
            tolerance,
            budget=self.budget,
            patience=self.patience,
        )


@final
class _BroydenMethod(Method):
    def __init__(self, memory: int, growth: float) -> None:
        self.memory = memory
        self.growth = growth
        self.count = 0
        self.left: Float[Tensor, " batch memory dim"] | None = None
        self.right: Float[Tensor, " batch memory dim"] | None = None
        self.step: Float[Tensor, " batch dim"] | None = None

    def propose(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        reset: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch *shape"]:
        rows = samples.flat(residual)
        self.step = rows if self.step is None else self._update(self.step, rows, reset)
        return self.step.reshape(w.shape)

    def _update(
        self,
        step: Float[Tensor, " batch dim"],
        residual: Float[Tensor, " batch dim"],
        reset: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch dim"]:
        ahead = self._apply(residual)
        length = samples.dot(step, step)
        denominator = length - samples.dot(step, ahead)
        sound = denominator.abs() > _SMALLEST_DENOMINATOR * length
        inverse = torch.where(sound, denominator, 1).reciprocal_()
        gain = torch.where(sound, length * inverse, 1).unsqueeze(1)
        left = ahead * torch.where(sound, inverse, 0).unsqueeze(1)
        self._remember(left, self._apply_transposed(step))
        proposed = ahead * gain
        return proposed if reset is None else self._forget(reset, residual, proposed)

    def _apply(self, vector: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        """H v."""
        if self.left is None or self.right is None:
            return vector
        used = min(self.count, self.memory)
        weights = torch.bmm(self.right[:, :used], vector.unsqueeze(2))
        return torch.baddbmm(vector.unsqueeze(2), self.left[:, :used].mT, weights).squeeze(2)

    def _apply_transposed(self, vector: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        """Hᵀ v."""
        if self.left is None or self.right is None:
            return vector
        used = min(self.count, self.memory)
        weights = torch.bmm(self.left[:, :used], vector.unsqueeze(2))
        return torch.baddbmm(vector.unsqueeze(2), self.right[:, :used].mT, weights).squeeze(2)

    def _remember(
        self, left: Float[Tensor, " batch dim"], right: Float[Tensor, " batch dim"]
    ) -> None:
        if self.left is None or self.right is None:
            self.left = left.new_zeros(left.shape[0], self.memory, left.shape[1])
            self.right = torch.zeros_like(self.left)
        slot = self.count % self.memory
        self.left[:, slot], self.right[:, slot] = left, right
        self.count += 1

    def _forget(
        self,
        reset: Bool[Tensor, " batch"],
        residual: Float[Tensor, " batch dim"],
        proposed: Float[Tensor, " batch dim"],
    ) -> Float[Tensor, " batch dim"]:
        assert self.left is not None
        assert self.right is not None
        rows = reset.reshape(-1, 1, 1)
        self.left = torch.where(rows, 0, self.left)
        self.right = torch.where(rows, 0, self.right)
        return torch.where(reset.unsqueeze(1), residual, proposed)

    def select(self, index: Index) -> None:
        self.step = None if self.step is None else self.step[index]
        self.left = None if self.left is None else self.left[index]
        self.right = None if self.right is None else self.right[index]
