"""Dense systems (I + J) s = r, one small matrix per sample."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers import samples


def solve_shifted(
    jacobian: Float[Tensor, " batch dim dim"], rhs: Float[Tensor, " batch dim"]
) -> Float[Tensor, " batch dim"]:
    """s with (I + J) s = r; a singular matrix gives non-finite numbers, never an exception.

    Dimensions one and two use Cramer's rule, which costs a dozen elementwise operations where a
    batched LU factorisation costs ten times as much.
    """
    return factorised(jacobian)(rhs)


def solve_refined(
    jacobian: Float[Tensor, " batch dim dim"], rhs: Float[Tensor, " batch dim"]
) -> tuple[Float[Tensor, " batch dim"], Float[Tensor, " batch"]]:
    """s with (I + J) s = r and |r - s - J s|, after a step of refinement where that helped."""
    return refined(jacobian, factorised(jacobian), rhs)


def refined(
    jacobian: Float[Tensor, " batch dim dim"],
    solve: Callable[[Tensor], Tensor],
    rhs: Float[Tensor, " batch dim"],
) -> tuple[Float[Tensor, " batch dim"], Float[Tensor, " batch"]]:
    """`solve_refined` by r -> (I + J)⁻¹ r.

    The only direct solve of linear systems: it has no branches, so that it can be compiled.
    """
    first = solve(rhs)
    residual = _residual(jacobian, first, rhs)
    second = first + solve(residual)
    before, after = (
        samples.plain_norm(residual),
        samples.plain_norm(_residual(jacobian, second, rhs)),
    )
    better = after < before
    value = torch.where(better.unsqueeze(1), second, first)
    return value, torch.where(better, after, before)


def _residual(
    jacobian: Float[Tensor, " batch dim dim"],
    value: Float[Tensor, " batch dim"],
    rhs: Float[Tensor, " batch dim"],
) -> Float[Tensor, " batch dim"]:
    image: Tensor = torch.linalg.vecdot(jacobian, value.unsqueeze(1))
    return rhs - value - image


def factorised(jacobian: Float[Tensor, " batch dim dim"]) -> Callable[[Tensor], Tensor]:
    """r -> (I + J)⁻¹ r."""
    dim = jacobian.shape[1]
    if dim == 1:
        return lambda rhs: rhs / (1 + jacobian[:, 0])
    if dim == 2:
        return lambda rhs: _solve_two(jacobian, rhs)
    eye = torch.eye(dim, dtype=jacobian.dtype, device=jacobian.device)
    factors, pivots, _ = torch.linalg.lu_factor_ex(jacobian + eye)

    def solve(rhs: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.lu_solve(factors, pivots, rhs.unsqueeze(2))
        return solved.squeeze(2)

    return solve


def _solve_two(
    jacobian: Float[Tensor, " batch 2 2"], rhs: Float[Tensor, " batch 2"]
) -> Float[Tensor, " batch 2"]:
    (a, b), (c, d) = (row.unbind(1) for row in jacobian.unbind(1))
    p, q = rhs.unbind(1)
    a, d = a + 1, d + 1
    scale = torch.addcmul(a * d, b, c, value=-1).reciprocal_()
    first = torch.addcmul(d * p, b, q, value=-1)
    second = torch.addcmul(a * q, c, p, value=-1)
    return torch.stack((first * scale, second * scale), dim=1)
