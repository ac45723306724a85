"""The steps of one attack on a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from flow_core.diagnostics.attack.ascent import ProjectedAscent
from flow_core.diagnostics.attack.ball import Ball
from flow_core.diagnostics.attack.draws import uniform
from flow_core.diagnostics.attack.errors import Followed, distances, reconstructed
from flow_core.diagnostics.invertible import InvertibleMap, Point


@dataclass(frozen=True)
class Climb:
    """What one random start led to.

    Attributes:
        errors: Of the start and after every step; from where a sample broke it stays what it was.
        followed: The same errors in the pass whose gradient was followed.
        worst: Where the finite error was largest, or where the sample broke.
        largest: That error, NaN or infinite where it broke.
        blind: Steps of samples whose gradient was not finite, which went in a random direction.
    """

    errors: Float64[Tensor, "points batch"]
    followed: Float64[Tensor, "points batch"]
    worst: Float[Tensor, " batch *shape"]
    largest: Float64[Tensor, " batch"]
    blind: int


def worst_of(climbs: Sequence[Climb]) -> Climb:
    """What several starts led to, sample by sample: what broke is worse than any error."""
    best = _Best(climbs[0].worst, climbs[0].largest)
    for other in climbs[1:]:
        best = best.beside(other.worst, other.largest)
    blind = sum(climb.blind for climb in climbs)
    errors = torch.stack([climb.errors for climb in climbs]).amax(0)
    followed = torch.stack([climb.followed for climb in climbs]).amax(0)
    return Climb(errors, followed, best.x, best.error, blind)


@dataclass(frozen=True)
class Climber:
    """A model, samples, and where to.

    Attributes:
        model: Whose error counts.
        followed: Whose gradient is followed.
        point: The samples x₀.
        settings: Of the ascent.
        ball: Around x₀.
    """

    model: InvertibleMap
    followed: Followed
    point: Point
    settings: ProjectedAscent
    ball: Ball

    def climb(self, seed: int) -> Climb:
        """From a random start; a sample that breaks is left where it broke, the others go on."""
        x = self.ball.nearest(self.point.x + self.settings.epsilon * uniform(self.point.x, seed))
        best = _Best(x, x.new_full((len(x),), -1.0, dtype=torch.float64).cpu())
        errors, followed, blind = [], [], 0
        for step in range(self.settings.steps + 1):
            error, seen, gradient = self._looked_at(x)
            best = best.beside(x, error)
            errors.append(best.standing(error))
            followed.append(seen.cpu())
            lost = best.ends(gradient)
            blind += int(lost.sum())
            x = self._moved(x, gradient, lost, seed + step + 1)
            # What is broken stays in the batch as it was at first, so that shapes stay too.
            x = torch.where(_rows(best.broken, x), self.point.x, x)
        return Climb(torch.stack(errors), torch.stack(followed), best.x, best.error, blind)

    def _looked_at(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The error that counts, the one that is followed, and its gradient."""
        point = self.point.moved(x)
        seen, gradient = self.followed.error_and_gradient(point)
        if self.followed.is_pass_of(self.model):
            return seen.cpu(), seen, gradient
        return distances(reconstructed(self.model, point), x).cpu(), seen, gradient

    def _moved(self, x: Tensor, gradient: Tensor, lost: Tensor, seed: int) -> Tensor:
        """A step, in a random direction where there is no gradient."""
        if bool(lost.any()):
            gradient = torch.where(_rows(lost, x), uniform(x, seed), gradient)
        return self.ball.nearest(x + self.settings.step_size * gradient.sign())


@dataclass(frozen=True)
class _Best:
    """The worst that was found of every sample.

    Attributes:
        x: Where.
        error: How large, NaN or infinite where the sample is broken.
    """

    x: Float[Tensor, " batch *shape"]
    error: Float64[Tensor, " batch"]

    @property
    def broken(self) -> Bool[Tensor, " batch"]:
        """Whose attack is over."""
        return ~self.error.isfinite()

    def beside(self, x: Tensor, error: Tensor) -> "_Best":
        """With another point, which counts for what is not broken yet."""
        worse = ~self.broken & ((error > self.error) | ~error.isfinite())
        where = _rows(worse, x)
        return _Best(torch.where(where, x, self.x), torch.where(worse, error, self.error))

    def standing(self, error: Tensor) -> Tensor:
        """Errors of a step, of broken samples what broke them."""
        return torch.where(self.broken, self.error, error)

    def ends(self, gradient: Tensor) -> Bool[Tensor, " batch"]:
        """Samples that are whole and have no finite gradient."""
        finite = gradient.reshape(len(gradient), -1).isfinite().all(1).cpu()
        return ~self.broken & ~finite


def _rows(condition: Tensor, like: Tensor) -> Tensor:
    return condition.to(like.device).reshape(-1, *(1,) * (like.ndim - 1))
