"""Arnoldi's method, batched."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow_solvers.krylov.process import OrthonormalRows, unit

Matvec = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Arnoldi:
    """A V_m = V_{m+1} H for every problem of a batch.

    Attributes:
        basis: Orthonormal rows v_1 … v_{m+1}, the transpose of V_{m+1}; rows after a breakdown are
            zero.
        hessenberg: H; columns after a breakdown are zero.
        norm: Length of the start vector.
        steps: Valid columns of H per problem: m, or fewer where the space became invariant, and
            then H restricted to them is exact.
    """

    basis: Float[Tensor, " *leading rows dim"]
    hessenberg: Float[Tensor, " *leading rows columns"]
    norm: Float[Tensor, " *leading"]
    steps: Int[Tensor, " *leading"]


def arnoldi(
    matvec: Matvec, start: Float[Tensor, " *start"], steps: int, *, batch_dims: int = 1
) -> Arnoldi:
    """Orthonormal basis of the Krylov space of `start`, by Gram-Schmidt with one repetition.

    Costs at most `steps` products; stops when all problems broke down. Arnoldi (1951); the
    repetition is the "twice is enough" of Giraud, Langou and Rozložník (2005).

    Args:
        matvec: A times a tensor of the shape of `start`.
        start: The first `batch_dims` dimensions number independent problems, the others together
            are the vector.
        steps: m.
        batch_dims: 1 for `(batch, *shape)`, 2 for `(probes, batch, *shape)`.

    Raises:
        ValueError: `steps` is not positive.
    """
    if steps < 1:
        raise ValueError(f"expected at least one step, got {steps}")
    leading, shape = start.shape[:batch_dims], start.shape
    direction, norm = unit(start.reshape(leading.numel(), shape[batch_dims:].numel()))
    rows = OrthonormalRows(direction, steps + 1)
    hessenberg = start.new_zeros(leading.numel(), steps + 1, steps)
    alive = norm > 0
    valid = torch.zeros_like(norm, dtype=torch.int64)
    for step in range(steps):
        if not bool(alive.any()):
            break
        image = matvec(rows.last.reshape(shape)).reshape(direction.shape)
        coefficients, length, broke = rows.add(image)
        hessenberg[:, : step + 1, step] = coefficients
        hessenberg[:, step + 1, step] = length
        valid += alive
        alive = alive & ~broke
    basis = start.new_zeros(leading.numel(), steps + 1, direction.shape[1])
    basis[:, : rows.count] = rows.rows
    return Arnoldi(
        basis.reshape(*leading, steps + 1, direction.shape[1]),
        hessenberg.reshape(*leading, steps + 1, steps),
        norm.reshape(leading),
        valid.reshape(leading),
    )
