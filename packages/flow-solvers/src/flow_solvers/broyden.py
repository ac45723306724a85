"""Broyden's good method with limited memory."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow_solvers import samples
from flow_solvers.arguments import require_integer, require_number
from flow_solvers.iteration import Method, iterate
from flow_solvers.maps import BoundMap, Index
from flow_solvers.solution import Solution
from flow_solvers.tolerance import Tolerance

# A rank-one update whose denominator is this small against |s|² would blow the inverse up.
_SMALLEST_DENOMINATOR = 1e-3


@dataclass(frozen=True)
class Broyden:
    """w ← w + H r with H ≈ (I + J)⁻¹ learned per sample, seeded with the identity.

    The seed makes the first step a Picard step. For a step s that changed the residual by -y, the
    good update (Broyden 1965) is H ← H + (s - H y) sᵀH / (sᵀ H y).

    Attributes:
        memory: Rank-one terms that are kept, the oldest is dropped. With 2·dim terms the method
            ends in 2·dim steps on an affine map (Gay 1979).
        budget: Evaluations of G.
        patience: Evaluations without a better residual after which a sample has stalled.
        growth: A residual this many times the best takes the sample back to its best iterate;
            the residual may well rise on the way.
    """

    memory: int = 10
    budget: int = 200
    patience: int = 12
    growth: float = 1e3

    def __post_init__(self) -> None:
        for name in ("memory", "budget", "patience"):
            require_integer(name, getattr(self, name), 1)
        require_number("growth", self.growth)

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
        self.last: tuple[Tensor, Tensor] | None = None

    def learn(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        doubtful: bool,
    ) -> None:
        del w
        if self.last is not None:
            step, before = self.last
            change = before - samples.flat(residual)
            self._update(step, samples.finite_or_zero(change) if doubtful else change)

    def propose(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        reset: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch *shape"]:
        del reset
        rows = samples.flat(residual)
        step = self._apply(rows)
        self.last = step, rows
        return step.reshape(w.shape)

    def _update(
        self, step: Float[Tensor, " batch dim"], change: Float[Tensor, " batch dim"]
    ) -> None:
        """Make H map the change of the residual to the step, with the least change of H."""
        left, right = self._make_room(step)
        image = self._apply(change)
        covector = self._apply_transposed(step)
        denominator = samples.dot(step, image)
        sound = denominator.abs() > _SMALLEST_DENOMINATOR * samples.dot(step, step)
        inverse = torch.where(sound, torch.where(sound, denominator, 1).reciprocal_(), 0)
        slot = self.count % self.memory
        left[:, slot] = (step - image) * inverse.unsqueeze(1)
        right[:, slot] = covector
        self.count += 1

    def _make_room(self, like: Float[Tensor, " batch dim"]) -> tuple[Tensor, Tensor]:
        """Forget the oldest term first: a term is only right for the H that it was added to."""
        if self.left is None or self.right is None:
            self.left = like.new_zeros(like.shape[0], self.memory, like.shape[1])
            self.right = torch.zeros_like(self.left)
        elif self.count >= self.memory:
            self.left[:, self.count % self.memory] = 0
        return self.left, self.right

    def _apply(self, vector: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        """H v."""
        if self.left is None or self.right is None:
            return vector
        used = min(self.count, self.memory)
        weights = samples.products(self.right[:, :used], vector)
        return samples.add_rows(vector, weights, self.left[:, :used])

    def _apply_transposed(self, vector: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        """Hᵀ v."""
        if self.left is None or self.right is None:
            return vector
        used = min(self.count, self.memory)
        weights = samples.products(self.left[:, :used], vector)
        return samples.add_rows(vector, weights, self.right[:, :used])

    def select(self, index: Index) -> None:
        if self.last is not None:
            self.last = self.last[0][index], self.last[1][index]
        self.left = None if self.left is None else self.left[index]
        self.right = None if self.right is None else self.right[index]
