"""Damped fixed-point iteration."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow_solvers.arguments import require_integer, require_number
from flow_solvers.iteration import Method, iterate
from flow_solvers.maps import BoundMap, Index
from flow_solvers.solution import Solution
from flow_solvers.tolerance import Tolerance


@dataclass(frozen=True)
class Picard:
    """w ← w + θ·(x - w - G(w)), the guaranteed method for a contraction G.

    θ = 1 is Picard (Banach) iteration and contracts by L; θ < 1 is Krasnoselskii-Mann iteration,
    contracts by 1 - θ + θL and keeps rounding errors from sustaining an oscillation where the
    Jacobian of G is close to the identity.

    Attributes:
        damping: θ in (0, 1].
        budget: Evaluations of G; raised to what `lipschitz` needs.
        lipschitz: A certified L < 1. The budget is then large enough to reach the tolerance.
        patience: Evaluations without a better residual after which a sample has stalled; raised to
            1/(θ(1 - L)) where L is certified, as rounding hides the progress of fewer steps.

    Raises:
        ValueError: A setting is outside its range.
        TypeError: A setting is no number.
    """

    damping: float = 1.0
    budget: int = 1000
    lipschitz: float | None = None
    patience: int = 5

    def __post_init__(self) -> None:
        require_integer("budget", self.budget, 1)
        require_integer("patience", self.patience, 1)
        require_number("damping", self.damping)
        if self.lipschitz is not None:
            require_number("lipschitz", self.lipschitz)
        if not 0.0 < self.damping <= 1.0:
            raise ValueError(f"expected damping in (0, 1], got {self.damping}")
        if self.lipschitz is not None and not 0.0 <= self.lipschitz < 1.0:
            raise ValueError(f"expected a Lipschitz constant in [0, 1), got {self.lipschitz}")

    def solve(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        tolerance: Tolerance,
    ) -> Solution:
        """Solve w + G(w) = x from `start`."""
        budget = max(self.budget, self.guaranteed_budget(tolerance.relative(x.dtype)))
        patience = max(self.patience, self._steps_to_progress())
        method = _PicardMethod(self.damping)
        return iterate(method, bound, x, start, tolerance, budget=budget, patience=patience)

    def guaranteed_budget(self, rtol: float) -> int:
        """Evaluations that suffice where `lipschitz` holds: ⌈ln(rtol·(1 - L)/4) / ln ρ⌉ + 1.

        The residual contracts by ρ = 1 - θ + θL. From any start its ratio to the scale of the
        tolerance at the solution is at most 4/(1 - L), with room for the scale to settle.
        """
        if self.lipschitz is None:
            return 1
        rate = 1 - self.damping + self.damping * self.lipschitz
        if rate == 0.0:
            return 2
        return math.ceil(math.log(rtol * (1 - self.lipschitz) / 4) / math.log(rate)) + 1

    def _steps_to_progress(self) -> int:
        if self.lipschitz is None:
            return 1
        return math.ceil(1 / (self.damping * (1 - self.lipschitz)))


@final
class _PicardMethod(Method):
    def __init__(self, damping: float) -> None:
        self.damping = damping

    def propose(
        self,
        w: Float[Tensor, " batch *shape"],
        residual: Float[Tensor, " batch *shape"],
        reset: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch *shape"]:
        """The damped residual."""
        del w
        step = residual * self.damping
        if reset is None:
            return step
        # Only a residual that is not finite resets: a shorter step may stay where G is finite.
        return torch.where(reset.reshape((-1,) + (1,) * (step.dim() - 1)), step / 2, step)

    def select(self, index: Index) -> None:
        """Nothing: a step has no memory."""
        del index
