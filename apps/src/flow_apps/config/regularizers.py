"""Penalties on the conditioning of a model."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from flow_apps.config.checks import require, require_counts
from flow_apps.config.neighbours import OtherThan, any_of, only_with

DirectionsName: TypeAlias = Literal["per-sample", "per-feature-over-batch"]

_OF_DIFFERENCES = only_with(any_of(("fd_forward", OtherThan(0.0)), ("fd_inverse", OtherThan(0.0))))
_OF_DIRECTIONS = only_with(
    any_of(
        ("fd_forward", OtherThan(0.0)),
        ("fd_inverse", OtherThan(0.0)),
        ("jacobian", OtherThan(0.0)),
    )
)
_WEIGHTS = ("density", "fd_forward", "fd_inverse", "jacobian")


@dataclass(frozen=True, kw_only=True)
class RegularizersConfig:
    """Coefficients of penalties that are added to a loss; they can be used together.

    Every penalty is a mean over the batch, see `flow_core.regularizers`.

    Attributes:
        density: Of −(log p(z) + log-det) in nats, summed over values: the normalizing flow
            regularizer.
        fd_forward: Of ‖F(x + ε·d) − F(x)‖²/ε², finite differences of the map.
        fd_inverse: Of the same of its inverse, at z.
        fd_step: ε.
        directions: What d and v are divided by: the norm of a sample; or, as in the released code,
            that of a value over the batch.
        jacobian: Of the root mean square of ‖Jᵀ·v‖: of the map and of its inverse, at data and at
            samples, four terms.
        every: Steps between those that are regularized.
    """

    density: float = 0.0
    fd_forward: float = 0.0
    fd_inverse: float = 0.0
    fd_step: float = field(default=0.1, metadata=_OF_DIFFERENCES)
    directions: DirectionsName = field(default="per-sample", metadata=_OF_DIRECTIONS)
    jacobian: float = 0.0
    every: int = field(
        default=1,
        metadata=only_with(any_of(*((name, OtherThan(0.0)) for name in _WEIGHTS))),
    )

    def __post_init__(self) -> None:
        for name in _WEIGHTS:
            weight = getattr(self, name)
            require(0 <= weight < inf, f"{name}: expected 0 or a positive number, got {weight}")
        require(0 < self.fd_step < inf, f"fd_step: expected a positive number, got {self.fd_step}")
        require_counts(self, "every", most=10**9)

    @property
    def any(self) -> bool:
        """Whether anything is penalised."""
        return any(getattr(self, name) > 0 for name in _WEIGHTS)
