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

from flow_core.domain import Domain
from flow_core.layers.shear import Moves
from flow_core.layers.stretch import log_added
from flow_core.lipschitz.plain import Halves, widened_down, widened_up


class ScaleFunction(ABC):
    """A map from the real line to positive scales."""

    @abstractmethod
    def log_scale(self, raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Logarithms of the scales, in nats."""

    def largest_slope(self) -> float:
        """A bound of |d log s/d r|; infinite unless a function knows one."""
        return math.inf

    def log_range(self, lower: float, upper: float) -> tuple[float, float]:
        """Bounds of log s for r in an interval; infinite unless a function knows them."""
        return -math.inf, math.inf


class IncreasingScale(ScaleFunction):
    """One that increases with r."""

    def log_range(self, lower: float, upper: float) -> tuple[float, float]:
        """From the ends of the interval."""
        ends = self.log_scale(torch.tensor([lower, upper], dtype=torch.float64)).tolist()
        return widened_down(ends[0]), widened_up(ends[1])


@final
@dataclass(frozen=True)
class SigmoidScale(IncreasingScale):
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

    def largest_slope(self) -> float:
        """The maximum of p(1 − p)/(p + ε) over p in (0, 1)."""
        return 1 + 2 * self.epsilon - 2 * math.sqrt(self.epsilon * (1 + self.epsilon))

    def log_scale(self, raw: Tensor) -> Tensor:
        """log(σ(r + shift) + ε)."""
        return log_added(logsigmoid(raw + self.shift), self.epsilon)


@final
@dataclass(frozen=True)
class UpperHalfSigmoidScale(IncreasingScale):
    """s = ½·σ(r + shift) + ½, in (½, 1): the inverse stretches by less than two.

    Source: Behrmann et al. 2021, the modified affine coupling of §5.1.

    Attributes:
        shift: Makes the scale close to one for r = 0.
    """

    shift: float = 2.0

    def largest_slope(self) -> float:
        """The maximum of p(1 − p)/(1 + p) over p in (0, 1), at √2 − 1."""
        return 3 - 2 * math.sqrt(2)

    def log_scale(self, raw: Tensor) -> Tensor:
        """log(1 + σ(r + shift)) − log 2."""
        return torch.log1p(torch.sigmoid(raw + self.shift)) - math.log(2)


@final
@dataclass(frozen=True)
class HalfRangeSigmoidScale(IncreasingScale):
    """s = 1 + (1 − ε)·(2σ(r) − 1), in (ε, 2 − ε): around one, bounded on both sides unless ε = 0.

    Source: Behrmann et al. 2021, released code.

    Attributes:
        epsilon: Smallest scale, below 1; at 0 a scale can come close to 0.
    """

    epsilon: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"expected 0 <= epsilon < 1, got {self.epsilon}")

    def largest_slope(self) -> float:
        """The maximum of k(1 − w²)/(2(1 + kw)) over w = tanh(r/2), with k = 1 − ε."""
        if self.epsilon == 0:  # the supremum, towards w = −1
            return 1.0
        k = 1 - self.epsilon
        w = (math.sqrt(1 - k * k) - 1) / k
        return k * (1 - w * w) / (2 * (1 + k * w))

    def log_scale(self, raw: Tensor) -> Tensor:
        """log(1 + (1 − ε)·tanh(r/2))."""
        if self.epsilon == 0:
            return math.log(2) + logsigmoid(raw)
        return torch.log1p((1 - self.epsilon) * torch.tanh(0.5 * raw))


@final
@dataclass(frozen=True)
class BoundedExpScale(IncreasingScale):
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

    def largest_slope(self) -> float:
        """a."""
        return self.slope

    def log_scale(self, raw: Tensor) -> Tensor:
        """c·tanh(a·r/c)."""
        return self.bound * torch.tanh(raw * (self.slope / self.bound))


@final
@dataclass(frozen=True)
class ExpScale(IncreasingScale):
    """s = e^r + ε: without a bound above, and with ε = 0 without one below.

    What it can do to the inverse is what Behrmann et al. 2021 measured; source: their released
    code, `affine_scale_fn=exp`.

    Attributes:
        epsilon: Smallest scale.
    """

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"expected epsilon >= 0, got {self.epsilon}")

    def largest_slope(self) -> float:
        """1, the supremum of e^r/(e^r + ε)."""
        return 1.0

    def log_scale(self, raw: Tensor) -> Tensor:
        """log(e^r + ε)."""
        return log_added(raw, self.epsilon)


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


def moves_on(net: Halves, moved: Domain, scale: ScaleFunction) -> Moves:
    """Of a network that gives t and then r, for values of the shape of `moved`."""
    (first, shift), (second, raw) = net.first, net.second
    lowest, highest = (
        math.exp(end) if end < 700 else math.inf for end in scale.log_range(raw.lower, raw.upper)
    )
    return Moves(
        lipschitz=net.whole,
        of_shift=first,
        of_raw=second,
        shift=moved.image(shift.lower, shift.upper, shift.norm),
        lowest=lowest,
        highest=highest,
        slope=scale.largest_slope(),
    )
