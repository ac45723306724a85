"""How stably a model inverts while it is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from flow_core.bijection import Bijection
from flow_core.diagnostics.invertible import InvertibleMap, Point, evaluated, invertible_map
from flow_core.jacobian import jacobian_of
from flow_core.passes import Direction
from flow_core.settings import Settings
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_apps.config.stability import StabilityConfig
from flow_apps.figures.stability import course, draw_course
from flow_apps.training import Workers
from flow_apps.training.files import write_json

_FEW = 64
SPLIT = "stability"


@dataclass(frozen=True)
class Stability:
    """Round trips and singular values of the Jacobian.

    Attributes:
        bijection: What is measured.
        points: At most that many points, as the bijection takes them.
        config: How much is measured.
        using: What passes do their work with.
    """

    bijection: Bijection
    points: Callable[[int], Float[Tensor, " count *event"]]
    config: StabilityConfig
    using: Settings | None = None

    def measure(self, workers: Workers) -> dict[str, float]:
        """Figures by name; what is not finite is counted, and in no mean."""
        model = invertible_map(self.bijection, self.using)
        double, x = model.at(torch.float64), self.points(self.config.images)
        wide = Point(x).to(torch.float64).x
        found: dict[str, float] = {}
        for name, measured, points in (("", model, x), ("64", double, wide)):
            parts = torch.split(points, _FEW)
            errors = workers.each(f"{SPLIT}{name}", parts, partial(round_trip_errors, measured))
            found |= round_trip_figures(f"reconstruction{name}", errors)
        directions: Sequence[Direction] = (
            ("transform", "inverse") if self.config.inverse else ("transform",)
        )
        for direction in directions if self.config.jacobians else ():
            found |= self._spectra(double, wide, direction, workers)
        return found

    def _spectra(
        self, double: InvertibleMap, x: Tensor, direction: Direction, workers: Workers
    ) -> dict[str, float]:
        """Medians over samples of the extreme singular values and of their ratio."""
        x, there = x[: self.config.jacobians], double.transform
        if direction == "inverse":
            x, there = double.transform(x), double.inverse

        def extremes(u: Tensor) -> Float[Tensor, "one 2"]:
            """Largest and smallest of one sample."""
            return extreme_singular_values(jacobian_of(there, u, chunk=self.config.chunk))

        found = workers.each(f"{SPLIT} {direction}", torch.split(x, 1), extremes)
        return spectral_figures("" if direction == "transform" else "inverse_", found)


def round_trip_errors(
    model: InvertibleMap, x: Float[Tensor, " batch *event"]
) -> Float[Tensor, " batch"]:
    """‖x̂ − x‖₂ of whole samples; NaN of those of which a solve fails."""
    z, _ = evaluated(model.transform, Point(x))
    back, _ = evaluated(model.inverse, Point(z))
    return in_float64(back - x).flatten(1).square().sum(1).sqrt()


def extreme_singular_values(matrix: Float[Tensor, "batch rows dim"]) -> Float[Tensor, "batch 2"]:
    """The largest and the smallest; NaN of a matrix that is not finite.

    What is below eps of the largest is rounding, and counts as that: a condition number is told up
    to 1/eps, 4.5e15 in float64.
    """
    extremes = matrix.new_full((len(matrix), 2), torch.nan)
    finite = matrix.isfinite().all((1, 2))
    values = torch.linalg.svdvals(matrix[finite])
    largest, eps = values[:, 0], torch.finfo(values.dtype).eps
    extremes[finite] = torch.stack([largest, values[:, -1].maximum(eps * largest)], 1)
    return extremes


def round_trip_figures(name: str, errors: Float[Tensor, " count"]) -> dict[str, float]:
    """Mean and largest of the finite errors, and how many are NaN and infinite."""
    finite = errors[errors.isfinite()]
    counts = {
        f"{name}_nan": float(errors.isnan().sum()),
        f"{name}_inf": float(errors.isinf().sum()),
    }
    if not len(finite):
        return counts
    return {name: float(finite.mean()), f"{name}_max": float(finite.max()), **counts}


def spectral_figures(prefix: str, extremes: Float[Tensor, "count 2"]) -> dict[str, float]:
    """Medians over the samples whose Jacobian is finite, and how many are not."""
    finite = extremes[extremes.isfinite().all(1)]
    counts = {f"{prefix}jacobians_not_finite": float(len(extremes) - len(finite))}
    if not len(finite):
        return counts
    largest, smallest = finite.unbind(1)
    return {
        f"{prefix}condition": float((largest / smallest).median()),
        f"{prefix}largest_singular_value": float(largest.median()),
        f"{prefix}smallest_singular_value": float(smallest.median()),
        **counts,
    }


class StabilityFigures:
    """The course of a run's stability."""

    def draw(self, folder: Path, step: int) -> None:
        """One picture, of what was logged so far, and the same as lists."""
        metrics = folder.parent / "metrics.jsonl"
        draw_course([metrics], folder / "stability.png")
        write_json(folder / "stability.json", course(metrics))
