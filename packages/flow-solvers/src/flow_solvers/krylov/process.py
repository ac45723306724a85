"""The orthogonalisation that all Krylov routines share."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow_solvers import samples

# What is left of a vector after two passes, relative to its length before, when nothing was.
_BREAKDOWN_EPS = 10
_FIRST_CAPACITY = 8


def unit(vector: Float[Tensor, " batch dim"]) -> tuple[Tensor, Tensor]:
    """A vector per sample as (direction, length), safe from under- and overflow; 0 gives (0, 0)."""
    largest = (
        vector.abs().amax(dim=1, keepdim=True) if vector.shape[1] else vector[:, :0].sum(1, True)
    )
    scaled = vector / torch.where(largest > 0, largest, 1)
    length = samples.plain_norm(scaled).unsqueeze(1)
    return scaled / torch.where(length > 0, length, 1), (length * largest).squeeze(1)


class OrthonormalRows:
    """A growing orthonormal set of vectors per sample; a zero vector stands for a breakdown."""

    def __init__(self, first: Float[Tensor, " batch dim"], capacity: int) -> None:
        batch, dim = first.shape
        self._limit = capacity
        self._store = first.new_zeros(batch, min(_FIRST_CAPACITY, capacity), dim)
        self._store[:, 0] = first
        self.count = 1

    @property
    def rows(self) -> Float[Tensor, " batch count dim"]:
        """The vectors so far."""
        return self._store[:, : self.count]

    @property
    def last(self) -> Float[Tensor, " batch dim"]:
        """The vector that was added last."""
        return self._store[:, self.count - 1]

    def add(
        self, vector: Float[Tensor, " batch dim"]
    ) -> tuple[Float[Tensor, " batch count"], Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """Add the part of `vector` that is orthogonal to all rows.

        Classical Gram-Schmidt, twice: one pass loses orthogonality as soon as the vectors are
        nearly dependent, and then norms come out too large.

        Returns:
            The coefficients along the rows, the length of the new part (zero at a breakdown) and
            which samples broke down, because the rows span an invariant space already.
        """
        rows = self.rows
        before = samples.plain_norm(vector)
        coefficients = samples.products(rows, vector)
        vector = samples.add_rows(vector, coefficients, rows, -1.0)
        left = samples.products(rows, vector)
        vector = samples.add_rows(vector, left, rows, -1.0)
        length = samples.plain_norm(vector)
        broke = length <= _BREAKDOWN_EPS * torch.finfo(length.dtype).eps * before
        length = torch.where(broke, 0, length)
        inverse = torch.where(broke, 0, torch.where(broke, 1, length).reciprocal_())
        self._append(vector * inverse.unsqueeze(1))
        return coefficients + left, length, broke

    def _append(self, row: Float[Tensor, " batch dim"]) -> None:
        if self.count == self._store.shape[1]:
            extra = min(self.count, self._limit - self.count)
            self._store = torch.cat((self._store, torch.zeros_like(self._store[:, :extra])), dim=1)
        self._store[:, self.count] = row
        self.count += 1
