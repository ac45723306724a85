"""Implicit blocks: a residual block followed by the inverse of another."""

from typing import final

from flow_logdet import LogDet, log_det_difference
from flow_solvers import BoundMap
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Context
from flow_core.blocks.block import FixedPointBlock, checked
from flow_core.blocks.solve import Solve
from flow_core.maps import LipschitzMap
from flow_core.record import post_log_det
from flow_core.rounding import without_rounding


@final
class Implicit(FixedPointBlock):
    """z + G_z(z) = x + G_x(x), with log det(I + J_x(x)) - log det(I + J_z(z)).

    The inverse solves the same equation with the roles exchanged. Source: Lu et al. 2021
    (Implicit Normalizing Flows), eq. 6-8.
    """

    def __init__(self, g_x: LipschitzMap, g_z: LipschitzMap, solve: Solve | None = None) -> None:
        super().__init__(solve)
        self.g_x = g_x
        self.g_z = g_z

    @without_rounding
    def transform(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> Float[Tensor, " batch *shape"]:
        """The solution z of z + G_z(z) = x + G_x(x)."""
        x = checked(x, context, self.g_x, self.g_z)
        return self._resolvent(self.g_z.bind(context), x + self.g_x.bind(context)(x)).value

    @without_rounding
    def inverse(
        self, y: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> Float[Tensor, " batch *shape"]:
        """The solution x of x + G_x(x) = y + G_z(y)."""
        y = checked(y, context, self.g_x, self.g_z)
        return self._resolvent(self.g_x.bind(context), y + self.g_z.bind(context)(y)).value

    @without_rounding
    def transform_and_log_det(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
        """z and log det(I + J_x(x)) - log det(I + J_z(z))."""
        return self._map(
            checked(x, context, self.g_x, self.g_z), self.g_x.bind(context), self.g_z.bind(context)
        )

    @without_rounding
    def inverse_and_log_det(
        self, y: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
        """x and log det(I + J_z(z)) - log det(I + J_x(x))."""
        return self._map(
            checked(y, context, self.g_x, self.g_z), self.g_z.bind(context), self.g_x.bind(context)
        )

    def _map(self, x: Tensor, source: BoundMap, target: BoundMap) -> tuple[Tensor, Tensor]:
        """Solve z + target(z) = x + source(x)."""
        estimator = self._estimator(x)
        at_x = estimator.linearize(source, x)
        solution = self._resolvent(target, x + at_x.value)
        at_z = self._linearize(estimator, target, solution)
        log_det: LogDet = log_det_difference(estimator, at_x, at_z)
        post_log_det(self, log_det)
        return solution.value, log_det.value
