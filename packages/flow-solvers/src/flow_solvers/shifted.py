"""Dense systems (I + J) s = r, one small matrix per sample."""

import torch
from jaxtyping import Float
from torch import Tensor


def solve_shifted(
    jacobian: Float[Tensor, " batch dim dim"], rhs: Float[Tensor, " batch dim"]
) -> Float[Tensor, " batch dim"]:
    """s with (I + J) s = r; a singular matrix gives non-finite numbers, never an exception.

    Dimensions one and two use Cramer's rule, which costs a dozen elementwise operations where a
    batched LU factorisation costs ten times as much.
    """
    if rhs.shape[1] == 1:
        return rhs / (1 + jacobian[:, 0])
    if rhs.shape[1] == 2:
        return _solve_two(jacobian, rhs)
    eye = torch.eye(rhs.shape[1], dtype=rhs.dtype, device=rhs.device)
    solved: Tensor = torch.linalg.solve_ex(jacobian + eye, rhs)[0]
    return solved


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
