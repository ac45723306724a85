"""Bounds of layers in which some values move others: y₂ = (x₂ + t(x₁))·s(x₁)."""

import math
from dataclasses import dataclass

from flow_core.bounds import Bounds, ratio
from flow_core.domain import Domain
from flow_core.lipschitz.plain import product, widened_up
from flow_core.passes import Direction


@dataclass(frozen=True)
class Moves:
    """What is known of t and log s as functions of x₁ on a domain of it.

    Attributes:
        lipschitz: Of (t, r) together, where log s is a function of the number r beside t.
        of_shift: Of t alone.
        of_raw: Of r alone.
        shift: Of t.
        lowest: Of s.
        highest: Of s.
        slope: Largest |d log s/d r|.
    """

    lipschitz: float
    of_shift: float
    of_raw: float
    shift: Domain
    lowest: float
    highest: float
    slope: float

    def shear(self, moved: Domain, direction: Direction) -> float:
        """A bound of ‖A‖, A = diag(x₂ + t)·D log s + D t, with x₂ or y₂ in a domain.

        A = [diag((x₂ + t)·(log s)'), I]·D(r, t), of which both factors have a bound, as have both
        terms. Of y, x₂ + t = y₂/s.
        """
        if direction == "transform":
            size = max(abs(moved.lower + self.shift.lower), abs(moved.upper + self.shift.upper))
        else:
            size = product(moved.largest, ratio(1.0, self.lowest))
        return self.combined(1.0, product(size, self.slope))

    def combined(self, of_shift: float, of_log_scale: float) -> float:
        """A bound of ‖diag(v)·D log s + diag(u)·D t‖ with |u| and |v|·|(log s)'| below these."""
        together = product(self.lipschitz, math.hypot(of_shift, of_log_scale))
        apart = product(of_shift, self.of_shift) + product(of_log_scale, self.of_raw)
        return widened_up(min(together, apart))

    def bounds(self, moved: Domain, direction: Direction) -> Bounds:
        """Of (x₁, x₂) ↦ (x₁, y₂), whose Jacobian is [I, 0; S·A, S] and its inverse [I, 0; −A, S⁻¹].

        The norm of a matrix of blocks is at most that of the matrix of their norms. With S = I and
        ‖A‖ ≤ L it is (L + √(L² + 4))/2, which additive couplings reach.
        """
        shear = self.shear(moved, direction)
        return Bounds(
            triangle_norm(product(self.highest, shear), self.highest),
            triangle_norm(shear, ratio(1.0, self.lowest)),
        )

    def image(self, moved: Domain, direction: Direction) -> Domain:
        """Of y₂, or of x₂ = y₂/s − t."""
        shift = self.shift
        if direction == "transform":
            low, high = moved.lower + shift.lower, moved.upper + shift.upper
            return moved.image(
                min(product(low, self.lowest), product(low, self.highest)),
                max(product(high, self.lowest), product(high, self.highest)),
                product(moved.norm + shift.norm, self.highest),
            )
        least, most = ratio(1.0, self.highest), ratio(1.0, self.lowest)
        return moved.image(
            min(product(moved.lower, least), product(moved.lower, most)) - shift.upper,
            max(product(moved.upper, least), product(moved.upper, most)) - shift.lower,
            product(moved.norm, most) + shift.norm,
        )


def unknown_moves(moved: Domain) -> Moves:
    """Where nothing is known: every bound is infinite."""
    inf = math.inf
    return Moves(inf, inf, inf, moved.image(), lowest=0.0, highest=inf, slope=inf)


def triangle_norm(shear: float, scale: float) -> float:
    """The largest singular value of [1, 0; b, c]."""
    if math.isinf(shear) or math.isinf(scale):
        return math.inf
    # (p + q)/2 with p² = (1 + c)² + b² and q² = (1 − c)² + b²: no difference of large numbers.
    wide, narrow = math.hypot(1 + scale, shear), math.hypot(1 - scale, shear)
    return widened_up((wide + narrow) / 2)


def joined(still: Domain, moved: Domain, whole: Domain) -> Domain:
    """Samples made of two parts, in the shape of the whole."""
    return whole.image(
        min(still.lower, moved.lower),
        max(still.upper, moved.upper),
        math.hypot(still.norm, moved.norm),
    )
