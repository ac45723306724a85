"""What every increasing map of single values offers."""

from abc import abstractmethod
from typing import final

from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.events import per_sample_sum
from flow_core.passes import Pass


class ElementwiseBijection(Bijection):
    """y = f(x) for every value by itself, with f increasing, on samples of any shape.

    log|det ∂y/∂x| = Σ log f'(x) over all values of a sample. Classes give f, f⁻¹ and log f'; those
    whose value and slope share most of their work (`RationalQuadraticSpline`) are bijections of
    their own.
    """

    @abstractmethod
    def value(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """f(x) of every value."""

    @abstractmethod
    def inverse_value(self, y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """f⁻¹(y) of every value."""

    @abstractmethod
    def log_slope(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """log f'(x) of every value, in a form that neither overflows nor cancels."""

    @final
    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self.value(x), how.log_det(x, lambda: per_sample_sum(self.log_slope(x)))

    @final
    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        x = self.inverse_value(y)
        return x, how.log_det(y, lambda: -per_sample_sum(self.log_slope(x)))
