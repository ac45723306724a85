"""A linearization that holds the whole Jacobian."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from flow_solvers.maps import BoundMap, Index


@dataclass(frozen=True)
class JacobianLinearization:
    """G at one point with its whole Jacobian, for small dimension.

    Attributes:
        bound: G.
        point: Where it was linearized.
        value: G(point).
        matrix: J per sample.
    """

    bound: BoundMap
    point: Float[Tensor, " batch *shape"]
    value: Float[Tensor, " batch *shape"]
    matrix: Float[Tensor, " batch dim dim"]

    def jvp(self, tangent: Float[Tensor, " *probes"]) -> Float[Tensor, " *probes"]:
        """J t."""
        product = (self.matrix * self._rows(tangent).unsqueeze(-2)).sum(-1)
        return product.reshape(tangent.shape)

    def vjp(self, cotangent: Float[Tensor, " *probes"]) -> Float[Tensor, " *probes"]:
        """Jᵀ g."""
        product = (self.matrix * self._rows(cotangent).unsqueeze(-1)).sum(-2)
        return product.reshape(cotangent.shape)

    def jacobian(self) -> Float[Tensor, " batch dim dim"]:
        """J as a matrix per sample."""
        return self.matrix

    def select(self, index: Index) -> "JacobianLinearization":
        """The same linearization for a subset of the batch."""
        return JacobianLinearization(
            self.bound.select(index), self.point[index], self.value[index], self.matrix[index]
        )

    def _rows(self, probes: Float[Tensor, " *probes"]) -> Float[Tensor, " *leading batch dim"]:
        leading = probes.shape[: probes.dim() - self.point.dim()]
        return probes.reshape(*leading, *self.matrix.shape[:2])
