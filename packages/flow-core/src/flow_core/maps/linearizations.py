"""Linearizations that do not depend on the kind of net."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from flow_solvers import BoundMap, Index
from jaxtyping import Float
from torch import Tensor

_CPU_SAMPLES = 1024


@dataclass(frozen=True)
class JacobianLinearization:
    """G at one point with its whole Jacobian, for vectors of small dimension."""

    bound: BoundMap
    point: Float[Tensor, "batch dim"]
    value: Float[Tensor, "batch dim"]
    matrix: Float[Tensor, "batch dim dim"]

    def jvp(self, tangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """J t."""
        return (self.matrix * tangent.unsqueeze(-2)).sum(-1)

    def vjp(self, cotangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """Jᵀ g."""
        return (self.matrix * cotangent.unsqueeze(-1)).sum(-2)

    def jacobian(self) -> Float[Tensor, "batch dim dim"]:
        """J as a matrix per sample."""
        return self.matrix

    def select(self, index: Index) -> "JacobianLinearization":
        """The same linearization for a subset of the batch."""
        return JacobianLinearization(
            self.bound.select(index), self.point[index], self.value[index], self.matrix[index]
        )


@dataclass(frozen=True)
class FirstOrder:
    """The part of J that crosses at most one nonlinearity.

    Attributes:
        jvp: J₁ t for tangents with leading probe dimensions.
        exact_trace: tr J₁ per sample.
    """

    jvp: Callable[[Tensor], Tensor]
    exact_trace: Callable[[], Tensor]

    @property
    def trace(self) -> Float[Tensor, " batch"]:
        """Tr J₁ per sample."""
        return self.exact_trace()


def jacobian_by_products(
    jvp: Callable[[Tensor], Tensor], point: Float[Tensor, " batch *shape"]
) -> Float[Tensor, "batch dim dim"]:
    """J as a matrix per sample from products with all unit vectors, many folded into one pass.

    On a CPU a pass is kept small enough for its numbers to stay in the caches.
    """
    dim, count = prod(point.shape[1:]), len(point)
    eye = torch.eye(dim, dtype=point.dtype, device=point.device)
    units = eye.view(dim, 1, *point.shape[1:]).expand(dim, *point.shape)
    together = _CPU_SAMPLES // max(1, count) if point.device.type == "cpu" else dim
    columns = torch.cat([jvp(some) for some in torch.split(units, max(1, together))])
    return columns.reshape(dim, count, dim).permute(1, 2, 0)
