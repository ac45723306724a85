"""What every increasing map of single values offers."""

import math
from abc import abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.domain import Domain, LocalBounds
from flow_core.events import per_sample_sum
from flow_core.layers.stretch import elementwise
from flow_core.passes import Direction, Pass


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
    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """Of the slopes at the values of the domain; ends are mapped to ends."""
        if direction == "transform":
            return elementwise(self, self.slopes_on(domain.lower, domain.upper), domain, direction)
        with torch.no_grad():
            ends = torch.tensor([domain.lower, domain.upper], dtype=torch.float64)
            lower, upper = self.inverse_value(ends).nan_to_num(math.nan, math.inf, -math.inf)
        reach = [-math.inf if lower.isnan() else float(lower), float(upper)]
        return elementwise(self, self.slopes_on(*reach), domain, direction)

    def slopes_on(self, lower: float, upper: float) -> Bounds:
        """The largest slope of an interval of x, and one over the smallest."""
        return self.bounds()

    @final
    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self.value(x), how.log_det(x, lambda: per_sample_sum(self.log_slope(x)))

    @final
    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        x = self.inverse_value(y)
        return x, how.log_det(y, lambda: -per_sample_sum(self.log_slope(x)))
