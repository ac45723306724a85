"""Where bounds of a bijection hold, where they do not hold everywhere."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_core.bounds import Bounds


@dataclass(frozen=True)
class Domain:
    """All samples of a shape whose values lie in an interval, and whose l2 norm is bounded.

    Both are kept because layers keep either: a rotation the norm, an activation the interval. What
    one says of the other is worked in: the norm is at most √D times the largest value.

    Attributes:
        shape: Of a sample.
        lower: Smallest value; minus infinity for none.
        upper: Largest value; infinity for none.
        norm: Largest l2 norm of a sample.
        context: Of the contexts of the samples; None where there are none, or nothing is known.

    Raises:
        ValueError: If the interval is empty or the norm negative.
    """

    shape: tuple[int, ...]
    lower: float = -math.inf
    upper: float = math.inf
    norm: float = math.inf
    context: "Domain | None" = None

    def __post_init__(self) -> None:
        if not self.lower <= self.upper or not self.norm >= 0:
            raise ValueError(
                "expected lower <= upper and norm >= 0, got "
                f"lower={self.lower}, upper={self.upper}, norm={self.norm}"
            )
        norm = min(self.norm, math.sqrt(math.prod(self.shape)) * self.largest)
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "lower", max(self.lower, -norm))
        object.__setattr__(self, "upper", min(self.upper, norm))

    @classmethod
    def around(cls, x: Float[Tensor, " batch *shape"], context: Tensor | None = None) -> "Domain":
        """The smallest one that has all samples of a batch, and all their contexts."""
        given = None if context is None else cls.around(context)
        rows = in_float64(x.detach()).reshape(len(x), math.prod(x.shape[1:]))
        norm = float(rows.norm(dim=1).max())
        return cls(tuple(x.shape[1:]), float(rows.min()), float(rows.max()), norm, given)

    @property
    def largest(self) -> float:
        """The largest magnitude of a value."""
        return max(abs(self.lower), abs(self.upper))

    def image(
        self,
        lower: float = -math.inf,
        upper: float = math.inf,
        norm: float = math.inf,
        shape: tuple[int, ...] | None = None,
    ) -> "Domain":
        """Another one with the same contexts; of the same shape unless it is given."""
        numbers = (-math.inf if math.isnan(lower) else lower, upper, norm)
        lower, upper, norm = (math.inf if math.isnan(number) else number for number in numbers)
        return Domain(self.shape if shape is None else shape, lower, upper, norm, self.context)

    def part(self, shape: tuple[int, ...]) -> "Domain":
        """Some of the values of each sample."""
        return replace(self, shape=shape)

    def wider(self, share: float) -> "Domain":
        """Widened by a share of the largest value and of the norm."""
        spare = share * self.largest
        return self.image(self.lower - spare, self.upper + spare, self.norm * (1 + share))

    def with_zero(self) -> "Domain":
        """The interval widened so that it has 0, which padding is made of."""
        return replace(self, lower=min(self.lower, 0.0), upper=max(self.upper, 0.0))


class LocalBounds(NamedTuple):
    """What is known of a bijection on a domain.

    Attributes:
        bounds: Of the Jacobians of the transform at all x there and of the inverse at all their y,
            or the other way round where the domain is of y.
        image: A domain that holds what the samples are mapped to.
    """

    bounds: Bounds
    image: Domain
