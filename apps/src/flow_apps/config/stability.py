"""How stability is measured while a model is trained."""

from dataclasses import dataclass, field

from flow_apps.config.checks import require_counts
from flow_apps.config.neighbours import OtherThan, only_with

_OF_JACOBIANS = only_with(("jacobians", OtherThan(0)))


@dataclass(frozen=True, kw_only=True)
class StabilityConfig:
    """Round trips and singular values of validation images, at evaluations.

    Attributes:
        every: Steps between measurements, a multiple of `evaluate_every`: those of evaluations in
            between are left out. The last weights are measured in any case.
        images: Images that go forth and back.
        jacobians: Images with a Jacobian and its singular values, in float64; 0 for none. Of
            3x32x32 values one takes about a minute.
        inverse: Whether the inverse has a Jacobian of its own too, which is another question than
            the inverse of the Jacobian where round trips fail.
        chunk: Rows of a Jacobian at a time.
    """

    every: int = 2000
    images: int = 128
    jacobians: int = 1
    inverse: bool = field(default=False, metadata=_OF_JACOBIANS)
    chunk: int = field(default=64, metadata=_OF_JACOBIANS)

    def __post_init__(self) -> None:
        require_counts(self, "every", "images", "chunk", most=10**9)
        require_counts(self, "jacobians", least=0, most=10**6)
