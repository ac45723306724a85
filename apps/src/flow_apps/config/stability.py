"""How stability is measured while a model is trained."""

from dataclasses import dataclass, field

from flow_apps.config.checks import require, require_counts
from flow_apps.config.neighbours import OtherThan, only_with

_MEASURED = only_with(("every", OtherThan(0)))
_OF_JACOBIANS = only_with(("every", OtherThan(0)), ("jacobians", OtherThan(0)))


@dataclass(frozen=True, kw_only=True)
class StabilityConfig:
    """Round trips and singular values of validation images, at evaluations.

    Attributes:
        every: Steps between measurements, a multiple of `evaluate_every`: those of evaluations in
            between are left out. The last weights are measured in any case. 0: nothing is measured.
        images: Images that go forth and back.
        jacobians: Images with a Jacobian and its singular values, in float64; 0 for none. Of
            3x32x32 values one takes about a minute.
        inverse: Whether the inverse has a Jacobian of its own too, which is another question than
            the inverse of the Jacobian where round trips fail.
        chunk: Rows of a Jacobian at a time.
    """

    every: int = 2000
    images: int = field(default=128, metadata=_MEASURED)
    jacobians: int = field(default=1, metadata=_MEASURED)
    inverse: bool = field(default=False, metadata=_OF_JACOBIANS)
    chunk: int = field(default=64, metadata=_OF_JACOBIANS)

    def __post_init__(self) -> None:
        require_counts(self, "images", "chunk", most=10**9)
        require_counts(self, "every", least=0, most=10**9)
        require_counts(self, "jacobians", least=0, most=10**6)

    def require_multiple_of(self, evaluate_every: int) -> None:
        """Refuse steps that have no evaluation.

        Raises:
            ConfigError: With the number that was expected.
        """
        require(
            self.every % evaluate_every == 0,
            f"stability.every: expected a multiple of evaluate_every={evaluate_every}, got "
            f"{self.every}",
        )

    def due(self, step: int, iterations: int) -> bool:
        """Whether an evaluation is one that measures."""
        return self.every > 0 and (step == iterations or step % self.every == 0)
