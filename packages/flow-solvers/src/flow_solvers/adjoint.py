"""The adjoint of a fixed point: (I + Jᵀ) v = g, and the transposed problem."""

from functools import lru_cache

from jaxtyping import Float
from torch import Tensor

from flow_solvers import samples
from flow_solvers.direct import Direct
from flow_solvers.gmres import Gmres
from flow_solvers.linear import Adjoint, AdjointSolver, LinearSolution, Tangent
from flow_solvers.maps import Linearization

_DIRECT_UP_TO = 16


@lru_cache
def default_adjoint(dim: int) -> AdjointSolver:
    """A direct solve up to dimension 16, GMRES(50) above."""
    return Direct() if dim <= _DIRECT_UP_TO else Gmres()


def solve_adjoint(
    linearization: Linearization,
    cotangent: Float[Tensor, " batch *shape"],
    solver: AdjointSolver | None = None,
) -> LinearSolution:
    """v with (I + Jᵀ) v = g, to |g - v - Jᵀv| ≤ rtol·|g| for every sample; no gradients."""
    chosen = solver or default_adjoint(samples.flat(cotangent).shape[1])
    return chosen.solve(Adjoint(linearization), cotangent)


def solve_tangent(
    linearization: Linearization,
    rhs: Float[Tensor, " batch *shape"],
    solver: AdjointSolver | None = None,
) -> LinearSolution:
    """u with (I + J) u = g, the derivative of a solution in direction g; no gradients."""
    chosen = solver or default_adjoint(samples.flat(rhs).shape[1])
    return chosen.solve(Tangent(linearization), rhs)
