"""How a block solves its equation."""

from dataclasses import dataclass, field
from typing import Literal

from flow_solvers import (
    AdjointSolver,
    BoundMap,
    DerivativeListener,
    Solution,
    Solver,
    Tolerance,
    require_on_failure,
    resolvent,
)
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Solve:
    """Settings of the fixed-point solves of a block.

    Attributes:
        solver: For w + G(w) = x; None chooses by dimension.
        adjoint: For (I + Jᵀ) v = g; None chooses by dimension.
        tolerance: Of every sample.
        on_failure: Raise `SolverError`, or return and leave the status to `record`.

    Raises:
        ValueError: `on_failure` is neither of the two.
    """

    solver: Solver | None = None
    adjoint: AdjointSolver | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    on_failure: Literal["raise", "return"] = "raise"

    def __post_init__(self) -> None:
        require_on_failure(self.on_failure)

    def __call__(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        listener: DerivativeListener | None = None,
    ) -> Solution:
        """Solve w + G(w) = x, differentiably; see `flow_solvers.resolvent`."""
        return resolvent(
            bound,
            x,
            solver=self.solver,
            adjoint=self.adjoint,
            tolerance=self.tolerance,
            on_failure=self.on_failure,
            listener=listener,
        )
