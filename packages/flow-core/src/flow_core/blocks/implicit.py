"""Implicit blocks: a residual block followed by the inverse of another."""

from typing import final

from flow_logdet import log_det_difference
from flow_solvers import BoundMap
from torch import Tensor

from flow_core.blocks.block import FixedPointBlock
from flow_core.bounds import Bounds, ratio
from flow_core.maps import LipschitzMap
from flow_core.passes import Pass, zeros
from flow_core.settings import Solve


@final
class Implicit(FixedPointBlock):
    """z + G_z(z) = x + G_x(x), with log det(I + J_x(x)) - log det(I + J_z(z)).

    The inverse solves the same equation with the roles exchanged. Source: Lu et al. 2021
    (Implicit Normalizing Flows), eq. 6-8.
    """

    def __init__(self, g_x: LipschitzMap, g_z: LipschitzMap, solve: Solve | None = None) -> None:
        super().__init__([g_x, g_z], solve)
        self.g_x = g_x
        self.g_z = g_z

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        g_x, g_z = self._bound(how)
        return self._through(g_x, g_z, x, how)

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        g_x, g_z = self._bound(how)
        return self._through(g_z, g_x, y, how)

    def bounds(self) -> Bounds:
        """(1 + L_x)/(1 - L_z) and (1 + L_z)/(1 - L_x)."""
        x, z = self.g_x.certificate(), self.g_z.certificate()
        return Bounds(ratio(1 + x, 1 - z), ratio(1 + z, 1 - x), (x, z))

    def _bound(self, how: Pass) -> tuple[BoundMap, BoundMap]:
        """Both maps, in one order in both directions: from the same numbers the same dropout."""
        return how.bind(self.g_x), how.bind(self.g_z)

    def _through(
        self, source: BoundMap, target: BoundMap, x: Tensor, how: Pass
    ) -> tuple[Tensor, Tensor]:
        """The solution z of z + target(z) = x + source(x)."""
        at_x = self._evaluate(source, x, how)
        root = self._solve(target, x + at_x.value, how)
        if at_x.linearization is None or root.linearization is None:
            return root.value, zeros(x)
        estimator = self._estimator(x, how)
        difference = log_det_difference(estimator, at_x.linearization, root.linearization)
        return root.value, self._told(difference, how)
