"""Inversion errors and log-determinants against dense Jacobians."""

import math
from dataclasses import dataclass

import torch
from flow_solvers.precision import in_float64
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.context import Context
from flow_core.diagnostics.invertible import Point, invertible_map
from flow_core.jacobian import jacobian_of
from flow_core.settings import Settings


@dataclass(frozen=True)
class RoundTrip:
    """x against inverse(transform(x)), in the units of x.

    Attributes:
        max_error: Largest |x̂ − x| of any value.
        rms_error: Root mean square of x̂ − x over all values.
    """

    max_error: float
    rms_error: float


@dataclass(frozen=True)
class LogDetCheck:
    """Log-determinants as the model reports them against those of dense Jacobians, in nats.

    Attributes:
        samples: Number of samples compared.
        reported: Mean of what the model reports, in its own precision.
        exact: Mean of log|det| of the dense Jacobian, in float64.
        max_difference: Largest difference of any sample.
    """

    samples: int
    reported: float
    exact: float
    max_difference: float


def round_trip(
    bijection: Bijection,
    x: Tensor,
    context: Context = None,
    *,
    dtype: torch.dtype,
    using: Settings | None = None,
) -> RoundTrip:
    """Transform and invert a batch in one precision; the model is not changed.

    Raises:
        SolverError: If a solve misses its tolerance in this precision.
    """
    model, point = invertible_map(bijection, using).at(dtype), Point(x, context).to(dtype)
    with torch.no_grad():
        back = point.moved(point.through(model.transform)).through(model.inverse)
    error = in_float64(back - point.x)
    if error.numel() == 0:
        return RoundTrip(0.0, 0.0)
    return RoundTrip(float(error.abs().max()), float(error.square().mean().sqrt()))


def log_det_check(
    bijection: Bijection,
    x: Tensor,
    context: Context = None,
    *,
    chunk: int | None = None,
    using: Settings | None = None,
) -> LogDetCheck:
    """Compare reported log-determinants with log|det| of the dense Jacobian.

    Args:
        bijection: The map; its mode and the settings decide what is reported.
        x: The samples to compare; memory for `len(x)·chunk` samples is needed.
        context: First dimension the batch.
        chunk: Rows of the Jacobian per pass; all of them by default.
        using: What the calls do their work with.
    """
    with torch.no_grad():
        reported = bijection(x, context=context, using=using)[1]
    reported = in_float64(reported)
    model = invertible_map(bijection, using).at(torch.float64)
    point = Point(x, context).to(torch.float64)
    matrix = jacobian_of(model.transform, point.x, context=point.context, chunk=chunk)
    exact: Tensor = torch.linalg.slogdet(matrix).logabsdet
    if x.shape[0] == 0:
        return LogDetCheck(0, math.nan, math.nan, 0.0)
    return LogDetCheck(
        samples=x.shape[0],
        reported=float(reported.mean()),
        exact=float(exact.mean()),
        max_difference=float((reported - exact).abs().max()),
    )
