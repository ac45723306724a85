"""What every solver of w + G(w) = x offers."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from flow_solvers.arguments import require_kind, takes, wrong_kind
from flow_solvers.maps import BoundMap
from flow_solvers.solution import Solution
from flow_solvers.tolerance import Tolerance


@runtime_checkable
class Solver(Protocol):
    """A method with its settings; holds no state, so that one object serves any number of solves.

    The equation is w + G(w) = x. The fixed point w = f(w) is the case G = -f, x = 0.
    """

    def solve(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        start: Float[Tensor, " batch *shape"],
        tolerance: Tolerance,
    ) -> Solution:
        """Solve from `start`, without gradients; failures are in the status, never raised."""
        ...


def require_solver(name: str, value: object) -> None:
    """Refuse what is no solver of w + G(w) = x: a class, a name, a linear solver.

    Raises:
        TypeError: With what to pass instead.
    """
    example = "a solver such as Picard()"
    require_kind(name, value, Solver, example)
    # Linear solvers have a method of the same name.
    if not (isinstance(value, Solver) and takes(value.solve, 4)):
        raise wrong_kind(name, value, f"{example}, not a linear one")
