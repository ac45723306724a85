"""How well a model undoes itself, with what is not finite counted apart."""

import math
from dataclasses import dataclass

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_core.diagnostics.invertible import InvertibleMap, Point, evaluated
from flow_core.events import per_sample_all, per_sample_sum


@dataclass(frozen=True)
class NotFinite:
    """What of a batch is no number.

    Attributes:
        nan_values: Values that are NaN.
        inf_values: Values that are infinite.
        nan_samples: Samples with a NaN.
        inf_samples: Samples with an infinite value.
        unsolved: Samples of which a solve failed, whose values count as neither.
    """

    nan_values: int
    inf_values: int
    nan_samples: int
    inf_samples: int
    unsolved: int


@dataclass(frozen=True)
class FiniteErrors:
    """Errors of samples, over those that are finite.

    Attributes:
        mean: Of the finite ones; NaN where there is none.
        largest: Of the finite ones; NaN where there is none.
        finite: How many are.
        samples: Of how many.
    """

    mean: float
    largest: float
    finite: int
    samples: int

    def __str__(self) -> str:
        missing = "" if self.finite == self.samples else f" of {self.finite}/{self.samples} finite"
        return f"mean {self.mean:.2e}, largest {self.largest:.2e}{missing}"


@dataclass(frozen=True)
class RoundTripErrors:
    """A batch, the image of it, and what comes back, in one precision.

    Attributes:
        images: What is not finite in the images of the samples.
        returns: What is not finite after one round trip.
        l2: ‖x̂ − x‖₂ of a whole sample, not squared.
        mean_square: Mean square of the values of x̂ − x.
        mean_absolute: Mean of |x̂ − x|, in pixels where `pixel_scale` was given.
        trips: How many round trips the last two took, one after another.
        mean_square_after: As `mean_square`, after these.
        mean_absolute_after: As `mean_absolute`, after these.
    """

    images: NotFinite
    returns: NotFinite
    l2: FiniteErrors
    mean_square: FiniteErrors
    mean_absolute: FiniteErrors
    trips: int
    mean_square_after: FiniteErrors
    mean_absolute_after: FiniteErrors


def reconstruction(
    model: InvertibleMap, point: Point, *, trips: int = 9, pixel_scale: float = 1.0
) -> RoundTripErrors:
    """Transform and invert a batch, once and again and again.

    Source of the measures: Behrmann et al. 2021, released code.

    Args:
        model: In the precision of the batch.
        point: The batch.
        trips: Round trips of the second pair of errors.
        pixel_scale: What a unit of x is in pixel values, 255 for images in [0, 1].
    """
    y, solved_there = evaluated(model.transform, point)
    back, solved_back = evaluated(model.inverse, point.moved(y))
    last = back
    for _ in range(trips - 1):
        last = _round_trip(model, point.moved(last))
    once, after = (in_float64(z) - in_float64(point.x) for z in (back, last))
    values = max(math.prod(point.x.shape[1:]), 1)
    return RoundTripErrors(
        images=not_finite(y, solved_there),
        returns=not_finite(back, solved_there & solved_back),
        l2=finite_errors(per_sample_sum(once.square()).sqrt()),
        mean_square=finite_errors(per_sample_sum(once.square()) / values),
        mean_absolute=finite_errors(per_sample_sum(once.abs()) * (pixel_scale / values)),
        trips=trips,
        mean_square_after=finite_errors(per_sample_sum(after.square()) / values),
        mean_absolute_after=finite_errors(per_sample_sum(after.abs()) * (pixel_scale / values)),
    )


def finite_errors(errors: Float[Tensor, " batch"]) -> FiniteErrors:
    """Mean and largest of the finite ones."""
    finite = errors[torch.isfinite(errors)]
    if not len(finite):
        return FiniteErrors(math.nan, math.nan, 0, len(errors))
    return FiniteErrors(float(finite.mean()), float(finite.max()), len(finite), len(errors))


def not_finite(values: Tensor, solved: Tensor) -> NotFinite:
    """What of a batch is no number."""
    values = values[solved]
    nan, inf = values.isnan(), values.isinf()
    return NotFinite(
        nan_values=int(nan.sum()),
        inf_values=int(inf.sum()),
        nan_samples=int((~per_sample_all(~nan)).sum()),
        inf_samples=int((~per_sample_all(~inf)).sum()),
        unsolved=int((~solved).sum()),
    )


def _round_trip(model: InvertibleMap, point: Point) -> Tensor:
    y, _ = evaluated(model.transform, point)
    return evaluated(model.inverse, point.moved(y))[0]
