"""Newton's method for small dimensions."""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow_solvers import samples
from flow_solvers.descent import Descent
from flow_solvers.iteration import Method, iterate
from flow_solvers.maps import BoundMap, Index, fused
from flow_solvers.shifted import solve_shifted
from flow_solvers.solution import Solution
from flow_solvers.tolerance import Tolerance


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
        if min(self.budget, self.patience) < 1:
            raise ValueError(
                f"expected a budget and a patience of at least 1, got {self.budget} and "
                f"{self.patience}"
            )

    @torch.no_grad()
    def solve(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        tolerance: Tolerance,
    ) -> Solution:
        """Solve w + G(w) = x from `start`."""
        whole = fused(bound, x)
        if whole is None:
            return self._looped(bound, x, start, tolerance)
        descent = Descent(whole, x, start, tolerance, self.patience)
        if descent.run(self.budget):
            return descent.solution()
        # Someone needs the loop that gives samples up; it begins with one more evaluation.
        rest = replace(self, budget=self.budget - descent.calls)
        solution = rest._looped(bound, x, descent.best.w, tolerance)
        evaluations = solution.evaluations + descent.best.evaluations
        return replace(solution, evaluations=evaluations, calls=solution.calls + descent.calls)

    def _looped(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        tolerance: Tolerance,
    ) -> Solution:
        return iterate(
            _NewtonMethod(),
            bound,
            x,
            start,
            tolerance,
            budget=self.budget,
            patience=self.patience,
        )


@final
class _NewtonMethod(Method):
    growth = 1.0

    def evaluate(
        self, bound: BoundMap, w: Float[Tensor, " batch *shape"]
    ) -> Float[Tensor, " batch *shape"]:
        """G(w), and its linearization for the step."""
        self.linearization = bound.linearize(w)
        return self.linearization.value

    def propose(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        reset: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch *shape"]:
        """The Newton step, or a Picard step where the last one was taken back."""
        assert self.linearization is not None
        jacobian = self.linearization.jacobian()
        step = solve_shifted(jacobian, samples.flat(residual)).reshape(w.shape)
        if reset is None:
            return step
        return torch.where(samples.per_sample(reset, w), residual, step)

    def select(self, index: Index) -> None:
        """Keep the linearization of a subset of the batch."""
        assert self.linearization is not None
        self.linearization = self.linearization.select(index)
