"""Direct linear solves for small dimensions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow_solvers import samples
from flow_solvers.arguments import require_number
from flow_solvers.krylov.process import unit
from flow_solvers.linear import LinearSolution, Operator, relative_tolerance, rounding_floor
from flow_solvers.shifted import factorised, refined
from flow_solvers.solution import Status


@dataclass(frozen=True)
class Direct:
    """Form the matrix by `dim` products, factorise it, and refine the solution once.

    Attributes:
        rtol: |g - A v| ≤ rtol·|g| for every sample; None: 1e-6 in float32, 1e-10 in float64.
    """

    rtol: float | None = None

    def __post_init__(self) -> None:
        if self.rtol is not None:
            require_number("rtol", self.rtol)

    @torch.no_grad()
    def solve(self, operator: Operator, rhs: Float[Tensor, " batch *shape"]) -> LinearSolution:
        """Solve A v = g."""
        if not bool(rhs.any()):
            return _nothing(rhs)
        shift = operator.shift()
        return solve_dense(shift, factorised(shift), rhs, relative_tolerance(self.rtol, rhs))


@torch.no_grad()
def solve_dense(
    shift: Float[Tensor, " batch dim dim"],
    solve: Callable[[Tensor], Tensor],
    rhs: Float[Tensor, " batch *shape"],
    rtol: float,
) -> LinearSolution:
    """Solve (I + shift) v = g by a `solve` of vectors, refined once."""
    direction, scale = unit(samples.flat(rhs))
    if not bool(scale.any()):
        return _nothing(rhs)
    value, relative = refined(shift, solve, direction)
    accepted = relative <= rtol
    if not bool(accepted.all()):
        size = torch.linalg.matrix_norm(shift) + 1
        accepted = relative <= rounding_floor(size * samples.plain_norm(value), rtol)
    return _solution(value * scale.unsqueeze(1), relative, accepted, scale, rhs)


def _solution(
    value: Float[Tensor, " batch dim"],
    relative: Float[Tensor, " batch"],
    accepted: Bool[Tensor, " batch"],
    scale: Float[Tensor, " batch"],
    rhs: Float[Tensor, " batch *shape"],
) -> LinearSolution:
    status = torch.where(accepted, int(Status.CONVERGED), int(Status.STALLED))
    status = torch.where(scale.isfinite(), status, int(Status.NONFINITE))
    products = (scale != 0).to(torch.int64) * value.shape[1]
    return LinearSolution(value.reshape(rhs.shape), relative, products, status)


def _nothing(rhs: Float[Tensor, " batch *shape"]) -> LinearSolution:
    """The solution for a right-hand side that is zero throughout."""
    zeros = torch.zeros(rhs.shape[0], dtype=torch.int64, device=rhs.device)
    return LinearSolution(torch.zeros_like(rhs), zeros.to(rhs.dtype), zeros, zeros.clone())
