"""Factors of I + J that exist already, and the derivatives that they serve."""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from flow_solvers.direct import Direct, solve_dense
from flow_solvers.gmres import Gmres
from flow_solvers.linear import LinearSolution, Operator, relative_tolerance


@final
@dataclass(frozen=True)
class Factors:
    """I + J of every sample and its LU factorisation, without a graph.

    Attributes:
        jacobian: J.
        lu: L below the diagonal and U, as of `torch.linalg.lu_factor_ex`.
        pivots: As of that.
    """

    jacobian: Float[Tensor, "*batch dim dim"]
    lu: Float[Tensor, "*batch dim dim"]
    pivots: Int32[Tensor, "*batch dim"]

    def solve_adjoint(self, rhs: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        """v with (I + Jᵀ) v = g; not finite where the matrix is singular."""
        columns = rhs.unsqueeze(2)
        solved: Tensor = torch.linalg.lu_solve(self.lu, self.pivots, columns, adjoint=True)
        return solved.squeeze(2)


@torch.no_grad()
def factorise(jacobian: Float[Tensor, "*batch dim dim"]) -> Factors:
    """The factors of I + J; a singular matrix raises nothing."""
    eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    lu, pivots, _ = torch.linalg.lu_factor_ex(eye + jacobian)
    return Factors(jacobian.detach(), lu, pivots)


@final
@dataclass(frozen=True)
class Factored:
    """Solves (I + Jᵀ) v = g by factors, with a step of refinement, and the rest by a solver.

    Attributes:
        factors: Of the I + J whose transpose is asked for.
        otherwise: Whose tolerance is kept, and which solves all systems where one misses it.
    """

    factors: Factors
    otherwise: Direct | Gmres

    def solve(self, operator: Operator, rhs: Float[Tensor, " batch *shape"]) -> LinearSolution:
        """No product with the operator, where that is enough."""
        factors, rtol = self.factors, relative_tolerance(self.otherwise.rtol, rhs)
        found = solve_dense(factors.jacobian.mT, factors.solve_adjoint, rhs, rtol)
        if not found.solvable:
            return self.otherwise.solve(operator, rhs)
        return replace(found, products=torch.zeros_like(found.products))
