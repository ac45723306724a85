"""The two entry points: w + G(w) = x, and w = f(w)."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers import samples
from flow_solvers.adjoint import default_adjoint
from flow_solvers.defaults import default_solver
from flow_solvers.implicit import (
    DerivativeListener,
    OnFailure,
    Problem,
    require_on_failure,
    solve_implicit,
)
from flow_solvers.linear import AdjointSolver
from flow_solvers.maps import BoundMap
from flow_solvers.precision import widen
from flow_solvers.solution import Solution, SolverError
from flow_solvers.solver import Solver
from flow_solvers.tolerance import DEFAULT_TOLERANCE, Tolerance


def resolvent(
    bound: BoundMap,
    x: Float[Tensor, " batch *shape"],
    *,
    solver: Solver | None = None,
    adjoint: AdjointSolver | None = None,
    tolerance: Tolerance = DEFAULT_TOLERANCE,
    start: Float[Tensor, " batch *shape"] | None = None,
    lipschitz: float | None = None,
    on_failure: OnFailure = "raise",
    listener: DerivativeListener | None = None,
    linearized: bool = False,
) -> Solution:
    """Solve w + G(w) = x for w, differentiably.

    `.value` has gradients of every order with respect to x and `bound.tensors()`, by the implicit
    function theorem: (I + J) dw = dx - dG. The solve itself keeps no graph. It runs in the
    precision of x, outside autocast; float16 and bfloat16 are raised to float32.

    Args:
        bound: G, with a Lipschitz constant below 1.
        x: Right-hand side.
        solver: Defaults to `default_solver` for the dimension of x.
        adjoint: Linear solver of the derivatives, defaults to `default_adjoint`.
        tolerance: When a sample counts as solved.
        start: First iterate, defaults to x. Gets no gradient: the solution does not depend on it.
        lipschitz: A certified Lipschitz constant of G. Makes the default solver's last resort
            sufficient and gives the solution its error bound.
        on_failure: Raise if a sample is not solved, in the derivatives too; or return, leave it to
            the caller to look at `status`, and warn of derivatives.
        listener: Told of every linear solve of the derivatives, with its status. Where it returns
            True it deals with failures, and nothing is raised or warned of.
        linearized: Whether the solution is to have its linearization too, where `bound` is a
            `RecordingMap`: the last evaluation is recorded, and all derivatives are had from that.

    Raises:
        SolverError: A sample was not solved and `on_failure` is "raise".
        ValueError: The input has no batch dimension or is not floating point, shapes differ, or
            `lipschitz` is not in [0, 1), or `on_failure` is neither of the two.
    """
    _check(x, start, lipschitz)
    require_on_failure(on_failure)
    x, tensors = widen(x), [widen(tensor) for tensor in bound.tensors()]
    dim = math.prod(x.shape[1:])
    problem = Problem(
        bound.with_tensors([tensor.detach() for tensor in tensors]),
        solver or default_solver(dim, lipschitz),
        adjoint or default_adjoint(dim),
        tolerance,
        on_failure,
        listener,
        linearized,
    )
    first = x.detach() if start is None else start.detach().to(x.dtype)
    solution = solve_implicit(problem, x, first, tensors)
    if lipschitz is not None:
        exact = solution.residual + _rounding(x.detach(), solution)
        solution = replace(solution, error_bound=exact / (1 - lipschitz))
    if on_failure == "raise" and not solution.all_converged:
        raise SolverError("w + G(w) = x", solution.residual, solution.status, solution)
    return solution


def fixed_point(
    bound: BoundMap,
    start: Float[Tensor, " batch *shape"],
    *,
    solver: Solver | None = None,
    adjoint: AdjointSolver | None = None,
    tolerance: Tolerance = DEFAULT_TOLERANCE,
    lipschitz: float | None = None,
    on_failure: OnFailure = "raise",
) -> Solution:
    """Solve w = f(w) from `start`, differentiably with respect to `bound.tensors()`.

    This is w + G(w) = 0 with G = -f; see `resolvent` for the arguments.

    Raises:
        SolverError: A sample was not solved and `on_failure` is "raise".
        ValueError: As `resolvent`.
    """
    return resolvent(
        -bound,
        torch.zeros_like(start, requires_grad=False),
        solver=solver,
        adjoint=adjoint,
        tolerance=tolerance,
        start=start,
        lipschitz=lipschitz,
        on_failure=on_failure,
    )


@torch.no_grad()
def _rounding(x: Float[Tensor, " batch *shape"], solution: Solution) -> Float[Tensor, " batch"]:
    """How much larger than it was evaluated the residual may be, by rounding.

    The subtractions of x - w - G(w) round by eps/2 of their results, x - w and r. G(w), whose size
    is at most that of x - w and r, is taken to be right to within 4·eps·(rms w + rms G(w)).
    """
    w = solution.value.detach()
    root = math.sqrt(max(math.prod(x.shape[1:]), 1))
    sizes = (4 * samples.norm(w) + 5 * samples.norm(x - w)) / root
    return torch.finfo(x.dtype).eps * (sizes + 5 * solution.residual)


def _check(x: Tensor, start: Tensor | None, lipschitz: float | None) -> None:
    if x.dim() == 0 or not x.is_floating_point():
        raise ValueError(
            f"expected a floating-point batch of shape (batch, *shape), got {x.dtype} of shape "
            f"{tuple(x.shape)}; add the batch dimension or convert it"
        )
    if start is not None and start.shape != x.shape:
        raise ValueError(
            f"expected a start of the shape of x, {tuple(x.shape)}, got {tuple(start.shape)}"
        )
    if lipschitz is not None and not 0.0 <= lipschitz < 1.0:
        raise ValueError(f"expected a Lipschitz constant in [0, 1), got {lipschitz}")
