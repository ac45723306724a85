"""What every increasing map of single values offers."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection, Context


class Elementwise(Bijection):
    """y = f(x) for every value by itself, with f increasing.

    log|det ∂y/∂x| = Σ log f'(x) over all values of a sample. Classes give f, f⁻¹ and log f'; those
    whose value and slope share most of their work (`RationalQuadraticSpline`) are bijections of
    their own.
    """

    @abstractmethod
    def log_slope(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """log f'(x) of every value, in a form that neither overflows nor cancels."""

    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """f(x) and Σ log f'(x)."""
        return self.transform(x, context=context), self.log_slope(x).flatten(1).sum(1)

    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """x = f⁻¹(y) and −Σ log f'(x)."""
        x = self.inverse(y, context=context)
        return x, -self.log_slope(x).flatten(1).sum(1)
