"""Penalties on the conditioning of a model, for any loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from flow_core.base import BaseDistribution
from flow_core.bijection import Bijection
from flow_core.regularizers import (
    DirectionRule,
    density_penalty,
    finite_difference_penalty,
    jacobian_penalty,
    random_directions,
)
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.config.regularizers import DirectionsName, RegularizersConfig
from flow_apps.training import Scalars

_RULES: dict[DirectionsName, DirectionRule] = {
    "per-sample": "per_sample",
    "per-feature-over-batch": "per_feature_over_batch",
}


@dataclass(frozen=True)
class Regularizers:
    """The penalties of a config, a part of a loss.

    Attributes:
        config: Which, and how much they count.
        using: What passes of the bijection do their work with.
    """

    config: RegularizersConfig
    using: Settings | None = None

    def due(self, step: int) -> bool:
        """Whether a step is one that is regularized."""
        return self.config.any and step % self.config.every == 0

    def wants_log_det(self, step: int) -> bool:
        """Whether the pass of a step needs a log-determinant."""
        return self.config.density > 0 and self.due(step)

    def __call__(
        self,
        bijection: Bijection,
        base: BaseDistribution | None,
        x: Float[Tensor, " batch *event"],
        z: Float[Tensor, " batch *latent"],
        log_det: Float[Tensor, " batch"] | None,
        *,
        step: int,
    ) -> tuple[Float[Tensor, ""], Scalars]:
        """The weighted sum of the penalties of a step, and each of them for the log.

        Args:
            bijection: Of x.
            base: Of z; None where the log-determinant alone is the density.
            x: A batch.
            z: What the bijection makes of it, with its graph.
            log_det: Of that pass, where it is wanted.
            step: Its number.
        """
        total, scalars = x.new_zeros(()), dict[str, Tensor]()
        if self.due(step):
            for name, weight, penalty in self._penalties(bijection, base, x, z, log_det):
                total = total + weight * penalty
                scalars[f"{name}_penalty"] = penalty.detach()
        return total, scalars

    def _penalties(
        self,
        bijection: Bijection,
        base: BaseDistribution | None,
        x: Tensor,
        z: Tensor,
        log_det: Tensor | None,
    ) -> Iterator[tuple[str, float, Tensor]]:
        config = self.config
        if config.density:
            assert log_det is not None
            value = -log_det.mean() if base is None else density_penalty(base, z, log_det)
            yield "density", config.density, value
        if config.fd_forward:
            yield "fd_forward", config.fd_forward, self._difference(bijection, x, z)
        if config.fd_inverse:
            yield "fd_inverse", config.fd_inverse, self._inverse_difference(bijection, x, z)
        if config.jacobian:
            yield "jacobian", config.jacobian, self._jacobians(bijection, base, x, z)

    def _difference(self, bijection: Bijection, x: Tensor, z: Tensor) -> Tensor:
        there, step = partial(bijection.transform, using=self.using), self.config.fd_step
        return finite_difference_penalty(there, x, z, self._directions(x), step=step).mean()

    def _inverse_difference(self, bijection: Bijection, x: Tensor, z: Tensor) -> Tensor:
        back, step = partial(bijection.inverse, using=self.using), self.config.fd_step
        return finite_difference_penalty(back, z, x, self._directions(z), step=step).mean()

    def _jacobians(
        self, bijection: Bijection, base: BaseDistribution | None, x: Tensor, z: Tensor
    ) -> Tensor:
        """At data and, where there is a base to draw from, at samples; both directions."""
        there = partial(bijection.transform, using=self.using)
        back = partial(bijection.inverse, using=self.using)
        pairs = [(x, z)]
        if base is not None:
            drawn = base.rsample(len(x))
            pairs.append((back(drawn), drawn))
        terms = [
            jacobian_penalty(function, at, self._directions(to)).mean().sqrt()
            for u, v in pairs
            for function, at, to in ((there, u, v), (back, v, u))
        ]
        return torch.stack(terms).sum()

    def _directions(self, like: Tensor) -> Tensor:
        return random_directions(like.detach(), _RULES[self.config.directions])
