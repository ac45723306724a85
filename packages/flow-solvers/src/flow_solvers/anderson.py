"""Anderson acceleration of type II."""

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


@dataclass(frozen=True)
class Anderson:
    """w ← w + r - Σ γⱼ(Δwⱼ + Δrⱼ), where γ minimises |r - Σ γⱼ Δrⱼ| (Walker and Ni 2011, type II).

    The least-squares problem is solved per sample by normal equations of unit columns in float64,
    so that the ridge is relative and nothing depends on the scale of x.

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
    def __init__(self, memory: int, ridge: float, growth: float) -> None:
        self.memory = memory
        self.ridge = ridge
        self.growth = growth
        self.count = 0
        self.last: tuple[Tensor, Tensor] | None = None
        self.residuals: Float[Tensor, " batch memory dim"] | None = None
        self.images: Float[Tensor, " batch memory dim"] | None = None
        self.gram: Float[Tensor, " batch memory memory"] | None = None

    def learn(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        doubtful: bool,
    ) -> None:
        if self.last is None:
            return
        change = samples.flat(residual) - self.last[1]
        if doubtful:
            change = samples.finite_or_zero(change)
        self._remember(change, samples.flat(w) - self.last[0] + change)

    def propose(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        reset: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch *shape"]:
        del reset
        rows = samples.flat(residual)
        self.last = samples.flat(w), rows
        return self._accelerate(rows).reshape(w.shape)

    def _remember(
        self, change: Float[Tensor, " batch dim"], image: Float[Tensor, " batch dim"]
    ) -> None:
        if self.residuals is None or self.images is None or self.gram is None:
            batch, dim = change.shape
            self.residuals = change.new_zeros(batch, self.memory, dim)
            self.images = torch.zeros_like(self.residuals)
            self.gram = change.new_zeros(batch, self.memory, self.memory)
        slot = self.count % self.memory
        self.residuals[:, slot], self.images[:, slot] = change, image
        self.count += 1
        products = torch.bmm(self.residuals, change.unsqueeze(2)).squeeze(2)
        self.gram[:, slot], self.gram[:, :, slot] = products, products

    def _accelerate(self, residual: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        if self.residuals is None or self.images is None or self.gram is None:
            return residual
        used = min(self.count, self.memory)
        target = torch.bmm(self.residuals[:, :used], residual.unsqueeze(2)).squeeze(2)
        weights = _regularised(self.gram[:, :used, :used], target, self.ridge)
        mixed = torch.bmm(self.images[:, :used].mT, weights.unsqueeze(2)).squeeze(2)
        return residual - mixed

    def select(self, index: Index) -> None:
        if self.last is not None:
            self.last = self.last[0][index], self.last[1][index]
        self.residuals = None if self.residuals is None else self.residuals[index]
        self.images = None if self.images is None else self.images[index]
        self.gram = None if self.gram is None else self.gram[index]


def _regularised(
    gram: Float[Tensor, " batch used used"], target: Float[Tensor, " batch used"], ridge: float
) -> Float[Tensor, " batch used"]:
    """γ with (D G D + ridge·I) D⁻¹γ = D t, where D makes the diagonal of the Gram matrix one.

    An empty column (a sample that was reset, or that does not move any more) gets weight zero.
    """
    wide = gram.double()
    diagonal = wide.diagonal(dim1=1, dim2=2)
    filled = diagonal > 0
    scale = torch.where(filled, diagonal, 1).rsqrt_().mul_(filled)
    matrix = wide * scale.unsqueeze(2) * scale.unsqueeze(1)
    matrix += torch.diag_embed(filled.logical_not().double().add_(ridge))
    weights: Tensor = torch.linalg.solve_ex(matrix, target.double() * scale)[0]
    return torch.nan_to_num_(weights.mul_(scale), 0.0, 0.0, 0.0).to(target.dtype)
