"""One call that attacks the inverse of a model."""

import torch
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.context import Context
from flow_core.diagnostics.attack.ascent import ProjectedAscent
from flow_core.diagnostics.attack.ball import Ball
from flow_core.diagnostics.attack.bound import InverseErrorBound, inverse_error_bound
from flow_core.diagnostics.attack.climb import Climb, Climber, worst_of
from flow_core.diagnostics.attack.draws import directions
from flow_core.diagnostics.attack.errors import Followed, distances, reconstructed
from flow_core.diagnostics.attack.lenient import lenient_map
from flow_core.diagnostics.attack.result import InverseAttack
from flow_core.diagnostics.invertible import Invertible, InvertibleMap, Point, evaluated
from flow_core.diagnostics.plain import dtype_name
from flow_core.distributions import Flow
from flow_core.settings import Settings

_PUBLISHED = ProjectedAscent()
_STRIDE = 2**20


def attack_inverse(
    model: Invertible,
    x: Float[Tensor, " samples *shape"],
    settings: ProjectedAscent = _PUBLISHED,
    *,
    context: Context = None,
    using: Settings | None = None,
    followed: Settings | None = None,
    lipschitz: float | None = None,
) -> InverseAttack:
    """Look for samples near x whose reconstruction F⁻¹(F(x)) is as wrong as can be.

    Every sample is attacked by itself, all at once: a sample that breaks ends its own attack, and
    random numbers belong to seed and place in the batch. A copy in evaluation mode and in the
    precision of x is attacked; what solves of it do not reach counts as error. Gradients go through
    transform and inverse: those of our fixed points are implicit, of other libraries what they
    give. `followed=Settings(solve=UnrolledSolve(steps=5))` follows those of five unrolled steps, as
    published, while the errors that count are still those of `using`.

    Source: Behrmann et al. 2021, §5.1 and released code, which attacks one image from one seed,
    goes on after NaN, and takes for its errors those of a solve to 1e-12.

    Args:
        model: Any invertible model, see `invertible_map`.
        x: Samples, inside of the limits of the settings.
        settings: How far, how often, from which seeds.
        context: First dimension the batch.
        using: What calls of a `Bijection` do their work with.
        followed: The same of the passes whose gradient is followed; None for `using`.
        lipschitz: A constant of the inverse that is known otherwise, for the bound; None for what
            is proven.

    Raises:
        TypeError: If the model is of no kind that can be measured, or cannot be copied.
        ValueError: If there is no sample, or one lies outside of the limits.
    """
    point = Point(_checked(x).detach(), context)
    exact = lenient_map(model, x.dtype, using)
    passes = exact if followed is None else lenient_map(model, x.dtype, followed)
    ball = Ball.around(point.x, settings.epsilon, settings.limits)
    climbs: list[Climb] = []
    for seed in settings.seeds:
        seen = Followed(passes, _displacement(exact, point, settings.nudge, seed))
        climber = Climber(exact, seen, point, settings, ball)
        starts = range(settings.restarts)
        climbs.append(worst_of([climber.climb(seed + _STRIDE * start) for start in starts]))
    worst = torch.stack([climb.worst for climb in climbs])
    bound, failures = _bounded(model, point, worst, using, lipschitz)
    back = reconstructed(exact, point)
    return InverseAttack(
        settings=settings,
        dtype=dtype_name(x.dtype),
        x=point.x,
        clean=distances(back, x).cpu(),
        errors=torch.stack([climb.errors for climb in climbs]),
        followed=torch.stack([climb.followed for climb in climbs]),
        worst=worst,
        reconstructed=back,
        worst_reconstructed=torch.stack([reconstructed(exact, point.moved(w)) for w in worst]),
        blind=sum(climb.blind for climb in climbs),
        bound=bound,
        failures=failures,
    )


def _checked(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise TypeError(f"expected floating-point samples, got {x.dtype}; convert them: x.float()")
    if x.ndim == 0 or not x.numel():
        raise ValueError(f"expected a batch of samples with values, got shape {tuple(x.shape)}")
    return x


def _displacement(model: InvertibleMap, point: Point, length: float, seed: int) -> Tensor | None:
    """Of what the transform gives, for every sample."""
    if not length:
        return None
    y, _ = evaluated(model.transform, point)
    return length * directions(y.shape, y, seed)


def _bounded(
    model: Invertible,
    point: Point,
    worst: Float[Tensor, " seeds samples *shape"],
    using: Settings | None,
    lipschitz: float | None,
) -> tuple[InverseErrorBound | None, tuple[str, ...]]:
    """At the samples and at their worst points; none of models of which nothing is proven."""
    if lipschitz is None and not isinstance(model, Bijection | Flow):
        return None, ()
    points = torch.cat([point.x, worst.flatten(0, 1)])
    repeats = (1 + len(worst),) + (1,) * (0 if point.context is None else point.context.ndim - 1)
    context = None if point.context is None else point.context.repeat(repeats)
    try:
        found = inverse_error_bound(
            model, points, context=context, using=using, lipschitz=lipschitz
        )
    except (TypeError, RuntimeError) as error:
        return None, (f"bound: {type(error).__name__}: {error}",)
    return found, ()
