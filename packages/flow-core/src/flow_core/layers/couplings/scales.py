"""How a positive scale is made of any number."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast, final

import torch
from flow_solvers import require_kind
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


class ScaleFunction(ABC):
    """A map from the real line to positive scales."""

    @abstractmethod
    def log_scale(self, raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Logarithms of the scales, in nats."""


@final
@dataclass(frozen=True)
class SigmoidScale(ScaleFunction):
    """s = σ(r + shift) + ε, in (ε, 1 + ε); with ε = 0 it can come close to 0.

    Source: Kingma & Dhariwal 2018, released code; ε: Behrmann et al. 2021, §B.

    Attributes:
        shift: Makes the scale close to one for r = 0.
        epsilon: Smallest scale.
    """

    shift: float = 2.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"expected epsilon >= 0, got {self.epsilon}")

    def log_scale(self, raw: Tensor) -> Tensor:
        """log(σ(r + shift) + ε)."""
        log_sigmoid = logsigmoid(raw + self.shift)
        if self.epsilon == 0:
            return log_sigmoid
        return torch.logaddexp(log_sigmoid, log_sigmoid.new_tensor(math.log(self.epsilon)))


@final
@dataclass(frozen=True)
class HalfRangeSigmoidScale(ScaleFunction):
    """s = 1 + (1 − ε)·(2σ(r) − 1), in (ε, 2 − ε): around one, bounded on both sides.

    Source: Behrmann et al. 2021, released code.

    Attributes:
        epsilon: Smallest scale, above 0 and below 1.
    """

    epsilon: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise ValueError(f"expected 0 < epsilon < 1, got {self.epsilon}")

    def log_scale(self, raw: Tensor) -> Tensor:
        """log(1 + (1 − ε)·tanh(r/2))."""
        return torch.log1p((1 - self.epsilon) * torch.tanh(0.5 * raw))


@final
@dataclass(frozen=True)
class BoundedExpScale(ScaleFunction):
    """log s = c·tanh(a·r/c), in (−c, c).

    With c = 2, a = 1 that of Self Normalizing Flows (Keller et al. 2021); with a = c = log M that
    of Behrmann et al. 2021, where s is in (1/M, M).

    Attributes:
        bound: c, in nats.
        slope: a, the derivative at 0.
    """

    bound: float = 2.0
    slope: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.bound < math.inf and 0 < self.slope < math.inf):
            raise ValueError(
                f"expected positive bound and slope, got bound={self.bound}, slope={self.slope}"
            )

    def log_scale(self, raw: Tensor) -> Tensor:
        """c·tanh(a·r/c)."""
        return self.bound * torch.tanh(raw * (self.slope / self.bound))


def scale_function(scale: object) -> ScaleFunction:
    """The function itself, or that of Self Normalizing Flows for None.

    Raises:
        TypeError: It is none: a class, or a name.
    """
    if scale is None:
        return BoundedExpScale()
    if isinstance(scale, type) or not hasattr(scale, "log_scale"):
        require_kind("scale", scale, ScaleFunction, "a scale function such as SigmoidScale()")
    return cast(ScaleFunction, scale)
