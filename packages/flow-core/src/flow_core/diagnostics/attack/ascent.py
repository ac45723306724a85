"""How far and how often an attack moves."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from flow_solvers import require_integer, require_number

Limits: TypeAlias = tuple[float, float] | Literal["own"] | None
_HALF_A_BIN = 0.5 / 32


@final
@dataclass(frozen=True)
class ProjectedAscent:
    """Steps along the sign of a gradient in a ball of the largest norm (PGD).

    x ← x + a·sign(∂e/∂x), then back into the ball |x − x₀| ≤ ε, then into the limits, with
    e = ‖x − F⁻¹(F(x))‖₂ of every sample. Ascent of e is descent of the published loss 1 − e. The
    defaults are published, for images of 32 levels in [0, 1]. Sources: Madry et al. 2018; Behrmann
    et al. 2021, §5.1 and released code.

    Attributes:
        epsilon: ε, in the units of x: half a bin of 5 bits.
        steps: Of every attack; 0 measures the random starts.
        step_size: a, in the units of x.
        seeds: An attack of its own from each, all samples at once.
        restarts: Random starts of a seed, of which the worst counts, sample by sample.
        limits: What values of x must be: two numbers, `own` for the smallest and largest value of
            the sample itself, as published, or None for anything.
        nudge: Length of a random displacement of F(x) in the pass whose gradient is followed, one
            direction for each sample. 0 as published: what is followed then is rounding, and what
            unrolled solves leave. Above, it is how far the inverse carries an error of that size.

    Raises:
        TypeError: A number is none.
        ValueError: It is out of its range, or there is no seed.
    """

    epsilon: float = _HALF_A_BIN
    steps: int = 200
    step_size: float = 5e-4
    seeds: tuple[int, ...] = (0, 1, 2)
    restarts: int = 1
    limits: Limits = None
    nudge: float = 0.0

    def __post_init__(self) -> None:
        require_integer("steps", self.steps, 0)
        require_integer("restarts", self.restarts, 1)
        for name in ("epsilon", "step_size", "nudge"):
            value = require_number(name, getattr(self, name))
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected different integers, at least one, got {self.seeds}")
        if isinstance(self.limits, tuple) and not self.limits[0] < self.limits[1]:
            raise ValueError(f"limits: expected lower < upper, got {self.limits}")
