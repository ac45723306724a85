"""How far the two directions of a bijection can stretch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Proven Lipschitz constants of a bijection, in the l2 norm; infinite where none is known.

    Attributes:
        transform: Of the transform.
        inverse: Of the inverse.
        maps: Certified constants of the contractions inside a fixed-point block.
    """

    transform: float = math.inf
    inverse: float = math.inf
    maps: tuple[float, ...] = ()

    def swapped(self) -> "Bounds":
        """Those of the bijection with its directions exchanged."""
        return Bounds(self.inverse, self.transform, self.maps)

    def distance(self, residual: float) -> float:
        """How far, rms, a solve of the block with that residual is from the exact solution."""
        return ratio(residual, 1 - max(self.maps, default=math.inf))


def composed(parts: Iterable[Bounds]) -> Bounds:
    """Those of a composition: the products."""
    parts = list(parts)
    return Bounds(
        math.prod((part.transform for part in parts), start=1.0),
        math.prod((part.inverse for part in parts), start=1.0),
    )


def ratio(numerator: float, denominator: float) -> float:
    """A bound as a quotient, infinite where the denominator is not positive."""
    return numerator / denominator if denominator > 0 else math.inf
