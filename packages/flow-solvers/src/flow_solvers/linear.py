"""Linear systems with I + J and its transpose: operators, results, and what a solver offers."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow_solvers.arguments import require_kind, takes, wrong_kind
from flow_solvers.maps import Index, Linearization
from flow_solvers.solution import Status
from flow_solvers.tolerance import default_rtol


@dataclass(frozen=True)
class LinearSolution:
    """The solution of A v = g, one system per sample.

    Attributes:
        value: v.
        residual: |g - A v| / |g|; zero where g is zero.
        products: Products with A that the sample took part in.
        status: A `Status` per sample. CONVERGED means a residual within the relative tolerance, or
            within 4·eps·(1 + |A||v|/|g|) where that is larger, up to a hundred times the tolerance,
            and no further step lowers it.
    """

    value: Float[Tensor, " batch *shape"]
    residual: Float[Tensor, " batch"]
    products: Int[Tensor, " batch"]
    status: Int[Tensor, " batch"]

    @cached_property
    def solvable(self) -> bool:
        """Whether every system with a finite right-hand side was solved; synchronises once."""
        return self.unsolved == 0

    @cached_property
    def unsolved(self) -> int:
        """How many systems with a finite right-hand side were not solved; synchronises once."""
        failed = (self.status != Status.CONVERGED) & (self.status != Status.NONFINITE)
        return int(failed.count_nonzero())


@runtime_checkable
class Operator(Protocol):
    """I + J or I + Jᵀ of a linearization."""

    def __call__(self, vector: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """The operator times a vector."""
        ...

    def shift(self) -> Float[Tensor, " batch dim dim"]:
        """The operator minus the identity, as a matrix; costs `dim` products."""
        ...

    def select(self, index: Index) -> "Operator":
        """The operators of a subset of the batch."""
        ...


@final
@dataclass(frozen=True)
class Tangent:
    """I + J."""

    linearization: Linearization

    def __call__(self, vector: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """v + J v."""
        return vector + self.linearization.jvp(vector)

    def shift(self) -> Float[Tensor, " batch dim dim"]:
        """J."""
        return self.linearization.jacobian()

    def select(self, index: Index) -> "Tangent":
        """The operators of a subset of the batch."""
        return Tangent(self.linearization.select(index))


@final
@dataclass(frozen=True)
class Adjoint:
    """I + Jᵀ."""

    linearization: Linearization

    def __call__(self, vector: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """v + Jᵀ v."""
        return vector + self.linearization.vjp(vector)

    def shift(self) -> Float[Tensor, " batch dim dim"]:
        """Jᵀ."""
        return self.linearization.jacobian().mT

    def select(self, index: Index) -> "Adjoint":
        """The operators of a subset of the batch."""
        return Adjoint(self.linearization.select(index))


@runtime_checkable
class AdjointSolver(Protocol):
    """A linear solver with its settings; serves I + Jᵀ, and I + J in second derivatives."""

    def solve(self, operator: Operator, rhs: Float[Tensor, " batch *shape"]) -> LinearSolution:
        """Solve A v = g without gradients; failures are in the status, never raised."""
        ...


def require_adjoint(name: str, value: object) -> None:
    """Refuse what is no linear solver: a class, a name, a solver of fixed points.

    Raises:
        TypeError: With what to pass instead.
    """
    example = "a linear solver such as Gmres()"
    require_kind(name, value, AdjointSolver, example)
    # Solvers of fixed points have a method of the same name.
    if not (isinstance(value, AdjointSolver) and takes(value.solve, 2)):
        raise wrong_kind(name, value, f"{example}, not one of fixed points")


def rounding_floor(image: Float[Tensor, " batch"], rtol: float) -> Float[Tensor, " batch"]:
    """The relative residual that rounding allows, from the size |A||v|/|g|; at most 100·rtol."""
    floor = 4 * torch.finfo(image.dtype).eps * (1 + image)
    return floor.clamp(min=rtol, max=100 * rtol)


def relative_tolerance(rtol: float | None, like: Float[Tensor, "..."]) -> float:
    """The given tolerance, or the default of the dtype."""
    return default_rtol(like.dtype) if rtol is None else rtol
