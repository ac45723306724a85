"""How well a model inverts, and what is proven about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flow_core.bijection import Bijection
from flow_core.diagnostics import Diagnostics, diagnose
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

_ROUNDTRIP_POINTS = 1000
_DIAGNOSED = 200
_EXACT_UP_TO = 64


@dataclass(frozen=True)
class Invertibility:
    """What the summary and `evaluate.py` tell about a model that inverts.

    Attributes:
        bijection: Its invertible part.
        points: At most that many real test points, as the bijection takes them.
        using: What tests do their work with.
    """

    bijection: Bijection
    points: Callable[[int], Float[Tensor, " count *event"]]
    using: Settings

    def audit(self) -> Mapping[str, object]:
        """Round trip in data space."""
        return {"max_roundtrip_error": self.roundtrip_error(_ROUNDTRIP_POINTS)}

    def roundtrip_error(self, count: int) -> float:
        """Largest difference of x and its reconstruction, in data space."""
        x = self.points(count)
        return float((self.reconstruct(x) - x).abs().max())

    def reconstruct(self, x: Float[Tensor, " count *event"]) -> Float[Tensor, " count *event"]:
        """Forth and back."""
        return self.bijection.inverse(
            self.bijection.transform(x, using=self.using), using=self.using
        )

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few points."""
        x = self.points(_DIAGNOSED)
        small = x[0].numel() <= _EXACT_UP_TO
        return diagnose(self.bijection, x, exact_samples=8 if small else 2, chunk=_EXACT_UP_TO)
