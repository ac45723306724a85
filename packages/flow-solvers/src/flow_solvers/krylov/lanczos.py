"""The Lanczos method for symmetric operators, batched."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow_solvers.krylov.arnoldi import Matvec, arnoldi


@dataclass(frozen=True)
class Lanczos:
    """A V ≈ V T with T symmetric tridiagonal.

    Attributes:
        basis: Orthonormal rows v_1 … v_{m+1}; rows after a breakdown are zero.
        diagonal: α_1 … α_m.
        off_diagonal: β_1 … β_m; β_m couples to v_{m+1}.
        norm: Length of the start vector.
        steps: Valid entries per problem.
    """

    basis: Float[Tensor, " *leading rows dim"]
    diagonal: Float[Tensor, " *leading columns"]
    off_diagonal: Float[Tensor, " *leading columns"]
    norm: Float[Tensor, " *leading"]
    steps: Int[Tensor, " *leading"]

    def tridiagonal(self) -> Float[Tensor, " *leading columns columns"]:
        """T as a matrix."""
        inner = self.off_diagonal[..., :-1]
        return (
            torch.diag_embed(self.diagonal)
            + torch.diag_embed(inner, offset=1)
            + torch.diag_embed(inner, offset=-1)
        )


def lanczos(
    matvec: Matvec, start: Float[Tensor, " *start"], steps: int, *, batch_dims: int = 1
) -> Lanczos:
    """Lanczos (1950) with full orthogonalisation, so that no ghost eigenvalues appear.

    Args:
        matvec: A times a tensor of the shape of `start`, A symmetric.
        start: The first `batch_dims` dimensions number independent problems.
        steps: m, the number of products.
        batch_dims: See `arnoldi`.

    Raises:
        ValueError: `steps` is not positive.
    """
    full = arnoldi(matvec, start, steps, batch_dims=batch_dims)
    return Lanczos(
        full.basis,
        full.hessenberg.diagonal(dim1=-2, dim2=-1),
        full.hessenberg.diagonal(offset=-1, dim1=-2, dim2=-1),
        full.norm,
        full.steps,
    )
