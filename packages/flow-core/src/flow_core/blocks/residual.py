"""Residual blocks and their inverses."""

from typing import final

from flow_logdet import Kind
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Context
from flow_core.blocks.block import FixedPointBlock, checked
from flow_core.blocks.solve import Solve
from flow_core.combinators import Invert
from flow_core.maps import LipschitzMap
from flow_core.rounding import without_rounding


@final
class Residual(FixedPointBlock):
    """y = x + G(x), with log-determinant log det(I + J(x)).

    The inverse is the fixed point x = y - G(x), differentiated by the implicit function theorem.
    Source: Behrmann et al. 2019; Chen et al. 2019 (Residual Flows).
    """

    def __init__(self, g: LipschitzMap, solve: Solve | None = None) -> None:
        super().__init__(solve)
        self.g = g

    @without_rounding
    def transform(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> Float[Tensor, " batch *shape"]:
        """x + G(x)."""
        x = checked(x, context, self.g)
        return x + self.g.bind(context)(x)

    @without_rounding
    def inverse(
        self, y: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> Float[Tensor, " batch *shape"]:
        """The solution x of x + G(x) = y."""
        y = checked(y, context, self.g)
        return self._resolvent(self.g.bind(context), y).value

    @without_rounding
    def transform_and_log_det(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
        """x + G(x) and log det(I + J(x))."""
        x = checked(x, context, self.g)
        estimator = self._estimator(x)
        linearization = estimator.linearize(self.g.bind(context), x)
        return x + linearization.value, self._log_det(estimator, linearization, Kind.RESIDUAL)

    @without_rounding
    def inverse_and_log_det(
        self, y: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
        """The solution x of x + G(x) = y and -log det(I + J(x))."""
        y = checked(y, context, self.g)
        bound = self.g.bind(context)
        solution = self._resolvent(bound, y)
        estimator = self._estimator(y)
        linearization = self._linearize(estimator, bound, solution)
        return solution.value, -self._log_det(estimator, linearization, Kind.RESIDUAL)


def inverse_residual(g: LipschitzMap, solve: Solve | None = None) -> Invert:
    """The resolvent block: forward solves w + G(w) = x, the inverse is w + G(w)."""
    return Invert(Residual(g, solve))
