"""The log-determinant of a matrix, in eager and in compiled code."""

import torch
from jaxtyping import Float
from torch import Tensor


def log_abs_det(matrix: Float[Tensor, "*batch dim dim"]) -> Float[Tensor, "*batch"]:
    """log|det A| in nats, by LU factorisation; -∞ for a singular matrix.

    For code of layers, which may be compiled: the gradient of `torch.linalg.slogdet`, `det` and
    `logdet` is not to be trusted there.
    """
    if not torch.compiler.is_compiling():
        by_slogdet: Tensor = torch.linalg.slogdet(matrix).logabsdet  # noqa: TID251
        return by_slogdet
    # slogdet factorises A or Aᵀ, whichever lies better in memory, and its derivative asks again
    # which one it was: when it is traced. The memory that Inductor takes in the end may lie the
    # other way, and the gradient is then that of another matrix (torch 2.15). Factors of A itself
    # leave no choice, but their derivative costs two to eight times as much.
    factors = torch.linalg.lu_factor_ex(matrix).LU
    of_factors: Tensor = factors.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return of_factors
