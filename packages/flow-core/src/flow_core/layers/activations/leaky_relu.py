"""Two straight lines that meet at 0."""

import math
from typing import final

import torch
from torch import Tensor, nn

from flow_core.bounds import Bounds
from flow_core.layers.activations.base import ElementwiseBijection
from flow_core.layers.stretch import from_slopes


@final
class LeakyReLU(ElementwiseBijection):
    """y = x for x ≥ 0 and y = a·x below, with a fixed slope a.

    log f'(x) = 0 for x ≥ 0 and log a below. Source: Maas et al. 2013; as a layer of a flow, Keller
    et al. 2021 (Self Normalizing Flows).

    Args:
        negative_slope: a, positive.
    """

    def __init__(self, negative_slope: float = 0.1) -> None:
        super().__init__()
        if not 0 < negative_slope < math.inf:
            raise ValueError(f"expected a positive negative_slope, got {negative_slope}")
        self.negative_slope = negative_slope

    def extra_repr(self) -> str:
        """a shown in the representation of a model."""
        return f"negative_slope={self.negative_slope}"

    def bounds(self) -> Bounds:
        """The larger of 1 and a, and of 1 and 1/a."""
        return from_slopes(min(1.0, self.negative_slope), max(1.0, self.negative_slope))

    def value(self, x: Tensor) -> Tensor:
        """x or a·x."""
        return torch.where(x < 0, x * self.negative_slope, x)

    def inverse_value(self, y: Tensor) -> Tensor:
        """y or y/a."""
        return torch.where(y < 0, y / self.negative_slope, y)

    def log_slope(self, x: Tensor) -> Tensor:
        """0 or log a."""
        return (x < 0).to(x.dtype) * math.log(self.negative_slope)


@final
class LearnableLeakyReLU(ElementwiseBijection):
    """y = x for x ≥ 0 and y = s·x below, with one learned slope s = σ(a) + ½.

    It is the identity at first, and s stays within (½, 3/2), so that neither direction can blow up.
    log f'(x) = 0 for x ≥ 0 and log s below. Source: Keller et al. 2021 (Self Normalizing Flows),
    released code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw_slope = nn.Parameter(torch.zeros(()))

    def bounds(self) -> Bounds:
        """The larger of 1 and s, and of 1 and 1/s."""
        slope = float(self._slope().detach())
        return from_slopes(min(1.0, slope), max(1.0, slope))

    def value(self, x: Tensor) -> Tensor:
        """x or s·x."""
        return torch.where(x < 0, x * self._slope(), x)

    def inverse_value(self, y: Tensor) -> Tensor:
        """y or y/s."""
        return torch.where(y < 0, y / self._slope(), y)

    def log_slope(self, x: Tensor) -> Tensor:
        """0 or log s."""
        return (x < 0).to(x.dtype) * self._slope().log()

    def _slope(self) -> Tensor:
        return torch.sigmoid(self.raw_slope) + 0.5
