"""Invertible matrices with a known determinant, for 1x1 convolutions."""

from abc import ABC, abstractmethod
from typing import final

import torch
from flow_logdet import log_abs_det
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bounds import Bounds, ratio


def random_orthogonal(size: int) -> Float[Tensor, "size size"]:
    """An orthogonal matrix, uniformly distributed (Stewart 1980)."""
    factor, triangle = torch.linalg.qr(torch.randn(size, size))
    signed: Tensor = factor * triangle.diagonal().sign()
    return signed


def matrix_bounds(matrix: Float[Tensor, "size size"]) -> Bounds:
    """The largest singular value of a matrix in float64, and one over the smallest."""
    values = torch.linalg.svdvals(matrix)
    largest, smallest = float(values[0]), float(values[-1])
    # More than the error of LAPACK, which is relative to the largest.
    error = 10 * len(matrix) * torch.finfo(torch.float64).eps * largest
    return Bounds(largest + error, ratio(1.0, smallest - error))


class InvertibleMatrix(nn.Module, ABC):
    """A recipe for a square matrix W.

    Args:
        size: Rows of W.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"expected at least one channel, got {size}")
        self.size = size

    def extra_repr(self) -> str:
        """Size shown in the representation of a model."""
        return f"size={self.size}"

    @abstractmethod
    def dense(self) -> Float[Tensor, "size size"]:
        """W."""

    @abstractmethod
    def log_abs_det(self) -> Float[Tensor, ""]:
        """log|det W| in nats."""

    @abstractmethod
    def solve(self, columns: Float[Tensor, "size columns"]) -> Float[Tensor, "size columns"]:
        """W⁻¹ times columns."""


@final
class FreeMatrix(InvertibleMatrix):
    """Any matrix, orthogonal at first; determinant and inverse by LU factorisation.

    Source: Kingma & Dhariwal 2018, §3.2.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.weight = nn.Parameter(random_orthogonal(size))

    def dense(self) -> Tensor:
        """The parameter."""
        return self.weight

    def log_abs_det(self) -> Tensor:
        """By LU factorisation."""
        return log_abs_det(self.weight)

    def solve(self, columns: Tensor) -> Tensor:
        """By LU factorisation."""
        solved: Tensor = torch.linalg.solve(self.weight, columns)
        return solved


@final
class LUMatrix(InvertibleMatrix):
    """W = P·L·(U + diag(±e^s)) with a fixed permutation P and fixed signs, orthogonal at first.

    log|det W| = Σ s, and W can never become singular. Source: Kingma & Dhariwal 2018, eq. 10.
    """

    permutation: Tensor
    signs: Tensor

    def __init__(self, size: int) -> None:
        super().__init__(size)
        permutation, lower, upper = torch.linalg.lu(random_orthogonal(size))
        self.register_buffer("permutation", permutation.argmax(0))
        self.register_buffer("signs", upper.diagonal().sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())

    def dense(self) -> Tensor:
        """The product of the factors."""
        lower, upper = self._factors()
        return (lower @ upper).index_select(0, torch.argsort(self.permutation))

    def log_abs_det(self) -> Tensor:
        """Σ s."""
        return self.log_diagonal.sum()

    def solve(self, columns: Tensor) -> Tensor:
        """By two triangular solves."""
        lower, upper = self._factors()
        columns = columns.index_select(0, self.permutation)
        columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
        solved: Tensor = torch.linalg.solve_triangular(upper, columns, upper=True)
        return solved

    def _factors(self) -> tuple[Tensor, Tensor]:
        unit = torch.eye(self.size, dtype=self.lower.dtype, device=self.lower.device)
        diagonal = torch.diag(self.signs * self.log_diagonal.exp())
        return self.lower.tril(-1) + unit, self.upper.triu(1) + diagonal


class RotationMatrix(InvertibleMatrix):
    """An orthogonal matrix: log|det W| = 0 and W⁻¹ = Wᵀ."""

    def log_abs_det(self) -> Tensor:
        """0."""
        return next(self.parameters()).new_zeros(())

    def solve(self, columns: Tensor) -> Tensor:
        """Wᵀ times columns."""
        return self.dense().mT @ columns


@final
class OrthogonalMatrix(RotationMatrix):
    """W = exp(A − Aᵀ), random at first; reaches every rotation.

    Source: Lezcano-Casado & Martínez-Rubio 2019.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        # A norm that does not grow with the size keeps the exponential accurate in float32.
        self.generator = nn.Parameter(torch.randn(size, size) / size**0.5)

    def dense(self) -> Tensor:
        """exp(A − Aᵀ)."""
        rotation: Tensor = torch.linalg.matrix_exp(self.generator - self.generator.mT)
        return rotation

    def solve(self, columns: Tensor) -> Tensor:
        """By LU factorisation: of many channels the exponential is orthogonal to 1e-5 only."""
        solved: Tensor = torch.linalg.solve(self.dense(), columns)
        return solved


@final
class HouseholderMatrix(RotationMatrix):
    """W = H₁⋯Hₙ with reflections H = I − 2·v·vᵀ/|v|².

    As many reflections as rows reach every orthogonal matrix of their sign. Source: Tomczak &
    Welling 2016, eq. 8.

    Args:
        size: Rows of W.
        reflections: n; None for as many as rows.
    """

    def __init__(self, size: int, reflections: int | None = None) -> None:
        super().__init__(size)
        count = size if reflections is None else reflections
        if count < 1:
            raise ValueError(f"expected at least one reflection, got {count}")
        self.vectors = nn.Parameter(torch.randn(count, size))

    def dense(self) -> Tensor:
        """The product of the reflections, by their compact form I − Vᵀ·T·V."""
        unit = self.vectors / self.vectors.norm(dim=1, keepdim=True)
        # H₁⋯Hₙ = I − Vᵀ T⁻¹ V with T upper triangular: 1/2 on the diagonal, the products above.
        inner = (unit @ unit.mT).triu(1)
        half = 0.5 * torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
        compact: Tensor = torch.linalg.solve_triangular(inner + half, unit, upper=True)
        product: Tensor = unit.mT @ compact
        return torch.eye(self.size, dtype=unit.dtype, device=unit.device) - product
