"""What an attack on an inverse found, as text and as JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flow_core.diagnostics.attack.ascent import ProjectedAscent
from flow_core.diagnostics.attack.bound import InverseErrorBound
from flow_core.diagnostics.attack.errors import distances
from flow_core.diagnostics.plain import plain
from flow_core.diagnostics.stability.reconstruction import FiniteErrors, finite_errors

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class StepErrors:
    """Errors ‖x − F⁻¹(F(x))‖₂ at one step of an attack, over all samples and seeds.

    Attributes:
        mean: Of the finite ones; NaN where there is none.
        largest: Of the finite ones; NaN where there is none.
        quantiles: Of the finite ones, at .1, .5 and .9; NaN where there is none.
        nan: How many are NaN by now.
        inf: How many are infinite by now.
    """

    mean: float
    largest: float
    quantiles: tuple[float, float, float]
    nan: int
    inf: int


@dataclass(frozen=True)
class InverseAttack:
    """Perturbed samples and what their reconstructions are worth.

    Attributes:
        settings: Of the attack.
        dtype: Precision of the model that was attacked.
        x: The samples.
        clean: ‖x − F⁻¹(F(x))‖₂ of the samples as they are.
        errors: The same of what each seed made of them, at the start and after every step, the
            worst of all restarts. Once it is not finite the attack on the sample is over, and it
            stays.
        followed: The errors in the pass whose gradient was followed.
        worst: Where the error was largest, of every seed; where it broke if it did.
        reconstructed: F⁻¹(F(x)) of the samples as they are.
        worst_reconstructed: The same of the worst points.
        blind: Steps of samples whose gradient was not finite, which went in a random direction.
        bound: What the errors at the worst points are to be compared with; None where nothing is
            proven of the inverse.
        failures: What could not be measured, and why.
    """

    settings: ProjectedAscent
    dtype: str
    x: Float[Tensor, " samples *shape"]
    clean: Float64[Tensor, " samples"]
    errors: Float64[Tensor, "seeds points samples"]
    followed: Float64[Tensor, "seeds points samples"]
    worst: Float[Tensor, " seeds samples *shape"]
    reconstructed: Float[Tensor, " samples *shape"]
    worst_reconstructed: Float[Tensor, " seeds samples *shape"]
    blind: int
    bound: InverseErrorBound | None
    failures: tuple[str, ...]

    @property
    def course(self) -> tuple[StepErrors, ...]:
        """Errors at the start and after every step."""
        return course_of(self.errors)

    @property
    def largest(self) -> FiniteErrors:
        """The largest finite error of every attack, over samples and seeds that stayed whole."""
        whole = self.errors.isfinite().all(1)
        return finite_errors(torch.where(whole, self.errors.amax(1), torch.nan).flatten())

    @property
    def broken_at(self) -> tuple[tuple[int | None, ...], ...]:
        """By seed and sample, the first step whose error is not finite; None where all are."""
        return tuple(
            tuple(_first_broken(one) for one in of_seed.unbind(1)) for of_seed in self.errors
        )

    @property
    def first_broken(self) -> int | None:
        """The first step at which any sample broke."""
        steps = [step for of_seed in self.broken_at for step in of_seed if step is not None]
        return min(steps, default=None)

    @property
    def distance(self) -> FiniteErrors:
        """‖x' − x‖₂ of the worst points x'."""
        moved = [distances(one, self.x) for one in self.worst]
        return finite_errors(torch.cat(moved))

    def to_dict(self) -> dict[str, object]:
        """Figures as plain containers for JSON; what is not finite becomes None."""
        told = {
            "settings": asdict(self.settings),
            "dtype": self.dtype,
            "samples": len(self.x),
            "dimension": math.prod(self.x.shape[1:]),
            "clean": asdict(finite_errors(self.clean)),
            "largest": asdict(self.largest),
            "distance": asdict(self.distance),
            "first_broken": self.first_broken,
            "broken_at": self.broken_at,
            "blind": self.blind,
            "bound": None if self.bound is None else asdict(self.bound),
            "course": [asdict(step) for step in self.course],
            "course_by_seed": {
                str(seed): [asdict(step) for step in course_of(errors[None])]
                for seed, errors in zip(self.settings.seeds, self.errors, strict=True)
            },
            "followed": [asdict(step) for step in course_of(self.followed)],
            "failures": self.failures,
        }
        return cast("dict[str, object]", plain(told))

    def to_json(self) -> str:
        """The figures as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        settings, seeds = self.settings, len(self.settings.seeds)
        last = self.course[-1]
        lines = [
            f"{len(self.x)} samples of {math.prod(self.x.shape[1:])} values, {seeds} seeds, "
            f"{self.dtype}: epsilon {settings.epsilon:.6g}, {settings.steps} steps of "
            f"{settings.step_size:g}",
            f"l2 error before: {finite_errors(self.clean)}",
            f"l2 error after {settings.steps} steps: mean {last.mean:.2e}, largest "
            f"{last.largest:.2e}, quantiles {_together(last.quantiles)}",
            f"largest l2 error of every attack: {self.largest}",
            f"not finite by then: {last.nan} NaN, {last.inf} infinite of {seeds * len(self.x)}, "
            f"the first at step {self.first_broken}"
            if last.nan or last.inf
            else "all finite at every step",
            f"l2 distance of the worst points: {self.distance}",
        ]
        if self.blind:
            lines.append(f"{self.blind} steps of samples had no finite gradient")
        if self.bound is not None:
            lines.append(str(self.bound))
        return "\n".join([*lines, *(f"failed: {failure}" for failure in self.failures)])


def course_of(errors: Float64[Tensor, "seeds points samples"]) -> tuple[StepErrors, ...]:
    """What is told of every step."""
    return tuple(_told(errors[:, step].flatten()) for step in range(errors.shape[1]))


def _told(errors: Float64[Tensor, " count"]) -> StepErrors:
    finite = errors[errors.isfinite()]
    found = finite_errors(errors)
    quantiles = (
        torch.quantile(finite, finite.new_tensor(QUANTILES)).tolist()
        if len(finite)
        else [math.nan] * len(QUANTILES)
    )
    low, middle, high = (float(value) for value in quantiles)
    counts = int(errors.isnan().sum()), int(errors.isinf().sum())
    return StepErrors(found.mean, found.largest, (low, middle, high), *counts)


def _first_broken(errors: Float64[Tensor, " points"]) -> int | None:
    broken = (~errors.isfinite()).nonzero()
    return int(broken[0]) if len(broken) else None


def _together(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2e}" for value in values)
