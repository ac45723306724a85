"""Monotone blocks: the Cayley transform of a contraction."""

from math import sqrt
from typing import final

from flow_logdet import Kind
from flow_solvers import BoundMap
from torch import Tensor

from flow_core.blocks.block import FixedPointBlock
from flow_core.bounds import Bounds, ratio
from flow_core.maps import LipschitzMap
from flow_core.passes import Pass
from flow_core.settings import Solve

SQRT2 = sqrt(2.0)


@final
class Monotone(FixedPointBlock):
    """w + G(w) = √2·x, y = √2·w - x, with log det(I - J(w)) - log det(I + J(w)).

    This is F = ((Id + G)/2)⁻¹ - Id up to a rescaling of G; its inverse is the same with -G.
    Source: Ahn et al. 2022 (Monotone Flows), §3.
    """

    def __init__(self, g: LipschitzMap, solve: Solve | None = None) -> None:
        super().__init__([g], solve)
        self.g = g

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._cayley(how.bind(self.g), x, how)

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._cayley(-how.bind(self.g), y, how)

    def bounds(self) -> Bounds:
        """(1 + L)/(1 - L) both ways."""
        g = self.g.certificate()
        both = ratio(1 + g, 1 - g)
        return Bounds(both, both, (g,))

    def _cayley(self, bound: BoundMap, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        root = self._solve(bound, SQRT2 * x, how)
        return SQRT2 * root.value - x, self._log_det(root, Kind.MONOTONE, how)
