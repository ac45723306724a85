"""The scaled exponential linear unit as a bijection onto a half-line."""

import math
from typing import final

import torch
from torch import Tensor
from torch.distributions import constraints

from flow_core.bounds import Bounds
from flow_core.layers.activations.base import ElementwiseBijection
from flow_core.layers.stretch import from_slopes
from flow_core.lipschitz.activations.rectifier import SELU_ALPHA, SELU_SCALE


@final
class SELUTransform(ElementwiseBijection):
    """y = λ·x for x > 0 and y = λα·(e^x − 1) below, from the real line onto y > −λα.

    log f'(x) = log λ for x > 0 and log(λα) + x below. λα = 1.758 is the `limit`. The inverse is
    −inf at −λα and NaN below, within rounding: looking for such values would stop the device at
    every pass. Far below 0 the values of all x are within rounding of −λα, so a round trip loses
    e^(−x) rounding errors. `flow_core.lipschitz.SELU` is the same function inside of contractions.
    Source: Klambauer et al. 2017, eq. 2, with its constants λ and α.
    """

    limit = SELU_SCALE * SELU_ALPHA
    # torch declares this class without types.
    codomain = constraints.greater_than(-limit)  # type: ignore[no-untyped-call]

    def bounds(self) -> Bounds:
        """λα, the slope just below 0; the inverse has no largest slope where its values end."""
        return Bounds(self.limit)

    def slopes_on(self, lower: float, upper: float) -> Bounds:
        """λ above 0 and λα·e^x below, where it is largest just below 0."""
        below = [self.limit * math.exp(min(x, 0.0)) for x in (lower, upper)] if lower < 0 else []
        slopes = [*below, *([SELU_SCALE] if upper >= 0 else [])]
        return from_slopes(min(slopes), max(slopes))

    def value(self, x: Tensor) -> Tensor:
        """λ·x or λα·(e^x − 1)."""
        # Unfilled, the branch not taken would overflow, and its gradient be NaN.
        below = torch.expm1(x.masked_fill(x > 0, 0))
        return torch.where(x > 0, SELU_SCALE * x, self.limit * below)

    def inverse_value(self, y: Tensor) -> Tensor:
        """y/λ or log(1 + y/(λα))."""
        return torch.where(y > 0, y / SELU_SCALE, torch.log1p(y / self.limit))

    def log_slope(self, x: Tensor) -> Tensor:
        """log λ or log(λα) + x."""
        return torch.where(x > 0, math.log(SELU_SCALE), math.log(self.limit) + x)
