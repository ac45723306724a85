"""How far the two directions of a bijection can stretch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

BlockKind: TypeAlias = Literal["residual", "inverse_residual", "implicit", "monotone"]
POWERS: dict[BlockKind, int] = {
    "residual": 1,
    "inverse_residual": 1,
    "implicit": 2,
    "monotone": 2,
}
MARGIN = 3e-6  # of rounded weights: of 20 wide layers certificates exceed theirs by two thirds


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


def beside_identity(part: Bounds) -> Bounds:
    """Those of a bijection of some values, where the others stay."""
    return Bounds(max(1.0, part.transform), max(1.0, part.inverse))


def composed(parts: Iterable[Bounds]) -> Bounds:
    """Those of a composition: the products."""
    parts = list(parts)
    return Bounds(
        math.prod((part.transform for part in parts), start=1.0),
        math.prod((part.inverse for part in parts), start=1.0),
    )


def contraction_for_condition(condition: float, block: BlockKind, count: int) -> float:
    """The Lipschitz constant γ of maps, so that a flow of such blocks is bi-Lipschitz as wanted.

    With r = (1 + γ)/(1 - γ) the condition number Lip(F)·Lip(F⁻¹) of one residual block is r, that
    of a monotone or implicit one r², and those of a chain multiply. Other layers of the flow count
    too: an `ActNorm` has the condition number of its scales.

    Args:
        condition: κ of the whole chain, above 1.
        block: The kind of its blocks.
        count: How many there are.

    Returns:
        γ, for `SandwichNet(..., lipschitz=γ)`: six monotone blocks with κ = 100 have γ = 0.19.

    Raises:
        ValueError: κ is not above 1 and finite, the kind is unknown, or there is no block.
    """
    if not 1 < condition < math.inf:
        raise ValueError(f"expected a finite condition number above 1, got {condition}")
    if block not in POWERS:
        raise ValueError(f"expected a kind of block in {list(POWERS)}, got {block!r}")
    if count < 1:
        raise ValueError(f"expected at least one block, got {count}")
    return math.tanh(math.log(condition) / (2 * count * POWERS[block])) * (1 - MARGIN)


def ratio(numerator: float, denominator: float) -> float:
    """A bound as a quotient, infinite where the denominator is not positive."""
    return numerator / denominator if denominator > 0 else math.inf
