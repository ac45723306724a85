"""What was measured of the stability of a model, as text and as JSON."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import cast

from flow_core.bounds import Bounds
from flow_core.diagnostics.plain import plain
from flow_core.diagnostics.stability.gradients import GradientAngle
from flow_core.diagnostics.stability.reconstruction import (
    FiniteErrors,
    NotFinite,
    RoundTripErrors,
)
from flow_core.diagnostics.stability.spectrum import SingularValues


@dataclass(frozen=True)
class StabilityReport:
    """How stable a model is on a batch; what was left out or failed is empty.

    Attributes:
        samples: Size of the batch.
        dimension: Values of a sample.
        reconstruction: Round trips by precision.
        singular_values: Of the Jacobian by direction, of the first samples; those of the inverse at
            their images.
        lipschitz: By direction, lower bounds of the largest singular value at all samples.
        log_det: By precision, |reported − Σ log σ| in nats over the samples with singular values.
        bounds: Proven bi-Lipschitz bounds by the name of the layer, on the domain of the report.
        stretch: Product of the bounds of the transform.
        inverse_stretch: The same of the inverse.
        everywhere: Proven bounds of the whole model for all samples, infinite where there are none.
        gradients: By precision, gradients from recomputed inputs beside those from stored ones.
        failures: What could not be measured, and why.
    """

    samples: int
    dimension: int
    reconstruction: dict[str, RoundTripErrors]
    singular_values: dict[str, tuple[SingularValues, ...]]
    lipschitz: dict[str, FiniteErrors]
    log_det: dict[str, FiniteErrors]
    bounds: dict[str, Bounds]
    stretch: float
    inverse_stretch: float
    everywhere: Bounds
    gradients: dict[str, GradientAngle]
    failures: tuple[str, ...]

    @property
    def condition(self) -> float:
        """The largest condition number that was found, at least; NaN where none was."""
        values = [v.condition.lower for v in self.singular_values.get("transform", ())]
        return max(values, key=lambda value: (math.isnan(value), value), default=math.nan)

    def to_dict(self) -> dict[str, object]:
        """Plain containers for JSON; infinity and NaN, which JSON lacks, become None."""
        return cast("dict[str, object]", plain(asdict(self)))

    def to_json(self) -> str:
        """The figures as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        lines = [f"{self.samples} samples of {self.dimension} values"]
        for dtype, found in self.reconstruction.items():
            lines += _reconstruction_lines(dtype, found)
        for direction, values in self.singular_values.items():
            lines += [_singular_line(direction, i, found) for i, found in enumerate(values)]
        for direction, estimate in self.lipschitz.items():
            lines.append(f"local Lipschitz constant of {direction}, at least: {estimate}")
        for dtype, error in self.log_det.items():
            lines.append(f"log-det {dtype}, |reported - numeric| in nats: {error}")
        lines += [_bound_line(name, bound) for name, bound in self.bounds.items()]
        if self.bounds:
            lines.append(
                f"all: stretches by at most {self.stretch:.4g}, "
                f"inverse {self.inverse_stretch:.4g}; "
                f"everywhere by {self.everywhere.transform:.4g}, {self.everywhere.inverse:.4g}"
            )
        lines += [_gradient_line(dtype, found) for dtype, found in self.gradients.items()]
        return "\n".join([*lines, *(f"failed: {failure}" for failure in self.failures)])


def _reconstruction_lines(dtype: str, found: RoundTripErrors) -> Iterator[str]:
    yield f"round trip {dtype}: l2 {found.l2}"
    yield f"  mean square {found.mean_square}; after {found.trips} trips {found.mean_square_after}"
    yield (
        f"  mean absolute {found.mean_absolute}; "
        f"after {found.trips} trips {found.mean_absolute_after}"
    )
    for what, counts in (("images", found.images), ("returns", found.returns)):
        if counts != NotFinite(0, 0, 0, 0, 0):
            yield (
                f"  {what}: NaN in {counts.nan_samples} samples ({counts.nan_values} values), "
                f"infinite in {counts.inf_samples} ({counts.inf_values}), "
                f"{counts.unsolved} samples unsolved"
            )


def _singular_line(direction: str, sample: int, found: SingularValues) -> str:
    return (
        f"Jacobian of {direction}, sample {sample}: singular values {found.smallest} to "
        f"{found.largest}, condition number {found.condition} ({found.method})"
    )


def _bound_line(name: str, bound: Bounds) -> str:
    return (
        f"bound {name or 'model'}: stretches by at most {bound.transform:.4g}, "
        f"inverse {bound.inverse:.4g}"
    )


def _gradient_line(dtype: str, found: GradientAngle) -> str:
    return (
        f"gradients {dtype}, recomputed against stored: angle {found.angle:.2e}, relative distance "
        f"{found.relative_distance:.2e}, {found.nan_values} NaN, {found.inf_values} infinite"
    )
