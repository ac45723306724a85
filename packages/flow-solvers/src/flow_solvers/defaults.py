"""Which solver serves which problem."""

from functools import lru_cache

from flow_solvers.anderson import Anderson
from flow_solvers.broyden import Broyden
from flow_solvers.fallback import Fallback
from flow_solvers.newton import Newton
from flow_solvers.picard import Picard
from flow_solvers.samples import SMALL_DIMENSION
from flow_solvers.solver import Solver

_BROYDEN_UP_TO = 16


@lru_cache
def default_solver(dim: int, lipschitz: float | None = None) -> Solver:
    """Newton up to dimension 4, Broyden up to 16, Anderson above; damped Picard as a last resort.

    Args:
        dim: Numbers per sample.
        lipschitz: A certified Lipschitz constant of G below 1. The last resort then has the budget
            that reaches the tolerance for certain.
    """
    # Patient, because nothing comes after it: that much serves constants up to .99.
    safe = Picard(damping=0.5, budget=2000, lipschitz=lipschitz, patience=200)
    broyden = Broyden(memory=max(2 * dim, 10))
    if dim <= SMALL_DIMENSION:
        return Fallback((Newton(), broyden, safe))
    if dim <= _BROYDEN_UP_TO:
        return Fallback((broyden, safe))
    return Fallback((Anderson(), safe))
