"""Residual blocks and their inverses."""

from typing import final

from flow_logdet import Kind
from torch import Tensor

from flow_core.blocks.block import FixedPointBlock
from flow_core.bounds import Bounds, ratio
from flow_core.combinators import Invert
from flow_core.maps import LipschitzMap
from flow_core.passes import Pass
from flow_core.settings import Solve


@final
class Residual(FixedPointBlock):
    """y = x + G(x), with log-determinant log det(I + J(x)).

    The inverse is the fixed point x = y - G(x), differentiated by the implicit function theorem.
    Source: Behrmann et al. 2019; Chen et al. 2019 (Residual Flows).
    """

    def __init__(self, g: LipschitzMap, solve: Solve | None = None) -> None:
        super().__init__([g], solve)
        self.g = g

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        at_x = self._evaluate(how.bind(self.g), x, how)
        return x + at_x.value, self._log_det(at_x, Kind.RESIDUAL, how)

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        root = self._solve(how.bind(self.g), y, how)
        return root.value, -self._log_det(root, Kind.RESIDUAL, how)

    def bounds(self) -> Bounds:
        """1 + L and 1/(1 - L)."""
        g = self.g.certificate()
        return Bounds(1 + g, ratio(1.0, 1 - g), (g,))


def inverse_residual(g: LipschitzMap, solve: Solve | None = None) -> Invert:
    """The resolvent block: forward solves w + G(w) = x, the inverse is w + G(w)."""
    return Invert(Residual(g, solve))
