"""Monotone blocks: the Cayley transform of a contraction."""

from math import sqrt
from typing import final

from flow_logdet import Kind
from flow_solvers import BoundMap, Solution
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Context
from flow_core.blocks.block import FixedPointBlock, checked
from flow_core.blocks.solve import Solve
from flow_core.maps import LipschitzMap
from flow_core.rounding import without_rounding

SQRT2 = sqrt(2.0)


@final
class Monotone(FixedPointBlock):
    """w + G(w) = √2·x, y = √2·w - x, with log det(I - J(w)) - log det(I + J(w)).

    This is F = ((Id + G)/2)⁻¹ - Id up to a rescaling of G; its inverse is the same with -G.
    Source: Ahn et al. 2022 (Monotone Flows), §3.
    """

    def __init__(self, g: LipschitzMap, solve: Solve | None = None) -> None:
        super().__init__(solve)
        self.g = g

    @without_rounding
    def transform(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> Float[Tensor, " batch *shape"]:
        """√2·w - x, where w + G(w) = √2·x."""
        return self._cayley(checked(x, context, self.g), self.g.bind(context))[0]

    @without_rounding
    def inverse(
        self, y: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> Float[Tensor, " batch *shape"]:
        """√2·w - y, where w - G(w) = √2·y."""
        return self._cayley(checked(y, context, self.g), -self.g.bind(context))[0]

    @without_rounding
    def transform_and_log_det(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
        """√2·w - x and log det(I - J(w)) - log det(I + J(w))."""
        return self._cayley_and_log_det(checked(x, context, self.g), self.g.bind(context))

    @without_rounding
    def inverse_and_log_det(
        self, y: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
        """√2·w - y and log det(I + J(w)) - log det(I - J(w)), where w - G(w) = √2·y."""
        return self._cayley_and_log_det(checked(y, context, self.g), -self.g.bind(context))

    def _cayley(self, x: Tensor, bound: BoundMap) -> tuple[Tensor, Solution]:
        solution = self._resolvent(bound, SQRT2 * x)
        return SQRT2 * solution.value - x, solution

    def _cayley_and_log_det(self, x: Tensor, bound: BoundMap) -> tuple[Tensor, Tensor]:
        y, solution = self._cayley(x, bound)
        estimator = self._estimator(x)
        linearization = self._linearize(estimator, bound, solution)
        return y, self._log_det(estimator, linearization, Kind.MONOTONE)
