"""Golub-Kahan bidiagonalisation, batched."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers.krylov.arnoldi import Matvec
from flow_solvers.krylov.process import OrthonormalRows, unit


@dataclass(frozen=True)
class Bidiagonalization:
    """A V_m = U_m B with B upper bidiagonal, and Aᵀ U_m = V_m Bᵀ + β_m v_{m+1} e_mᵀ.

    Attributes:
        left: Orthonormal rows u_1 … u_m.
        right: Orthonormal rows v_1 … v_{m+1}.
        diagonal: α_1 … α_m.
        super_diagonal: β_1 … β_m; β_m couples to v_{m+1}.
        norm: Length of the start vector.
    """

    left: Float[Tensor, " *leading columns codim"]
    right: Float[Tensor, " *leading rows dim"]
    diagonal: Float[Tensor, " *leading columns"]
    super_diagonal: Float[Tensor, " *leading columns"]
    norm: Float[Tensor, " *leading"]

    def bidiagonal(self) -> Float[Tensor, " *leading columns columns"]:
        """B as a matrix; its singular values never exceed those of A."""
        return torch.diag_embed(self.diagonal) + torch.diag_embed(
            self.super_diagonal[..., :-1], offset=1
        )


def golub_kahan(
    matvec: Matvec,
    rmatvec: Matvec,
    start: Float[Tensor, " *start"],
    steps: int,
    *,
    batch_dims: int = 1,
) -> Bidiagonalization:
    """Bidiagonalise A from a start vector of its domain (Golub and Kahan 1965).

    Costs `steps` products with A and with Aᵀ. Both bases are orthogonalised twice: a single pass
    can report singular values above the true ones.

    Args:
        matvec: A times a tensor of the shape of `start`.
        rmatvec: Aᵀ times a tensor of the shape that `matvec` returns.
        start: The first `batch_dims` dimensions number independent problems.
        steps: m.
        batch_dims: See `arnoldi`.

    Raises:
        ValueError: `steps` is not positive.
    """
    if steps < 1:
        raise ValueError(f"expected at least one step, got {steps}")
    leading = start.shape[:batch_dims]
    batch = leading.numel()
    direction, norm = unit(start.reshape(batch, start.shape[batch_dims:].numel()))
    right = OrthonormalRows(direction, steps + 1)
    image = matvec(direction.reshape(start.shape))
    codomain = image.shape
    first, alpha = unit(image.reshape(batch, codomain[batch_dims:].numel()))
    left = OrthonormalRows(first, steps)
    alphas, betas = [alpha], []
    for step in range(steps):
        back = rmatvec(left.last.reshape(codomain)).reshape(direction.shape)
        betas.append(right.add(back)[1])
        if step + 1 < steps:
            image = matvec(right.last.reshape(start.shape)).reshape(first.shape)
            alphas.append(left.add(image)[1])
    return Bidiagonalization(
        left.rows.reshape(*leading, steps, first.shape[1]),
        right.rows.reshape(*leading, steps + 1, direction.shape[1]),
        torch.stack(alphas, dim=1).reshape(*leading, steps),
        torch.stack(betas, dim=1).reshape(*leading, steps),
        norm.reshape(leading),
    )
