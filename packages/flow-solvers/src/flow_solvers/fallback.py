"""A chain of solvers, from fast to safe."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers.arguments import require_kind
from flow_solvers.maps import BoundMap, Index
from flow_solvers.solution import Solution, Status
from flow_solvers.solver import Solver, require_solver
from flow_solvers.tolerance import Tolerance


@dataclass(frozen=True)
class Fallback:
    """Each solver gets the samples that the one before it failed on, from their best iterates.

    Samples without any finite residual are not tried again.

    Attributes:
        solvers: At least one.

    Raises:
        ValueError: There is no solver.
    """

    solvers: tuple[Solver, ...]

    def __post_init__(self) -> None:
        require_kind("solvers", self.solvers, (tuple, list), "a tuple of solvers")
        for solver in self.solvers:
            require_solver("every solver", solver)
        if not self.solvers:
            raise ValueError("expected at least one solver, got none")

    @torch.no_grad()
    def solve(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        tolerance: Tolerance,
    ) -> Solution:
        """Solve w + G(w) = x from `start`."""
        solution = self.solvers[0].solve(bound, x, start, tolerance)
        for solver in self.solvers[1:]:
            if solution.all_converged:
                break
            retry = (solution.status != Status.CONVERGED) & (solution.status != Status.NONFINITE)
            rows = torch.nonzero(retry).flatten()
            if rows.numel() == 0:
                break
            again = solver.solve(bound.select(rows), x[rows], solution.value[rows], tolerance)
            solution = _merge(solution, rows, again)
        return solution


def _merge(first: Solution, rows: Index, second: Solution) -> Solution:
    """`first` with the samples in `rows` replaced: a retry starts at the best, it is no worse."""
    return replace(
        first,
        value=first.value.index_copy(0, rows, second.value),
        residual=first.residual.index_copy(0, rows, second.residual),
        status=first.status.index_copy(0, rows, second.status),
        evaluations=first.evaluations.index_add(0, rows, second.evaluations),
        calls=first.calls + second.calls,
        linearization=None,
    )
