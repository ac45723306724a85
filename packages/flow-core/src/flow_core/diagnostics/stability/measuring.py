"""One call that measures how stable an invertible model is."""

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias, TypeVar, get_args

import torch
from flow_solvers import SolverError, require_integer
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.blocks import FixedPointBlock
from flow_core.bounds import Bounds, composed
from flow_core.context import Context
from flow_core.diagnostics.bounds import layer_bounds
from flow_core.diagnostics.copies import copied
from flow_core.diagnostics.invertible import (
    Invertible,
    InvertibleMap,
    Point,
    evaluated,
    invertible_map,
)
from flow_core.diagnostics.plain import dtype_name
from flow_core.diagnostics.stability.gradients import OutputLoss, gradient_angle, half_mean_square
from flow_core.diagnostics.stability.reconstruction import (
    FiniteErrors,
    finite_errors,
    reconstruction,
)
from flow_core.diagnostics.stability.report import StabilityReport
from flow_core.diagnostics.stability.spectrum import (
    SingularValues,
    Spectrum,
    default_spectrum,
    ritz_values,
)
from flow_core.distributions import Flow
from flow_core.domain import Domain
from flow_core.passes import Direction
from flow_core.settings import Settings

StabilityPart: TypeAlias = Literal[
    "reconstruction", "singular values", "lipschitz", "log-det", "bounds", "gradients"
]
Found = TypeVar("Found")
PARTS: tuple[StabilityPart, ...] = get_args(StabilityPart)
_DTYPES = (torch.float32, torch.float64)
_DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
_STEPS = 8


def stability_report(
    model: Invertible,
    x: Float[Tensor, " batch *shape"],
    dtypes: Sequence[torch.dtype] = _DTYPES,
    *,
    context: Context = None,
    using: Settings | None = None,
    domain: Domain | None = None,
    loss: OutputLoss = half_mean_square,
    jacobians: int = 1,
    directions: Sequence[Direction] = _DIRECTIONS,
    spectrum: Spectrum | None = None,
    trips: int = 9,
    pixel_scale: float = 1.0,
    leave_out: Collection[StabilityPart] = (),
) -> StabilityReport:
    """Measure how well a model is invertible, how far it stretches, and what that does to training.

    Copies in evaluation mode are measured, one for each precision: the model is left as it is, bit
    for bit. Jacobians are those of the copy in float64. Source of the measures: Behrmann et al.
    2021 (Understanding and mitigating exploding inverses), and its released code.

    Args:
        model: Any invertible model, see `invertible_map`.
        x: A batch, as the model takes it.
        dtypes: Precisions of round trips, log-determinants and gradients.
        context: First dimension the batch.
        using: What calls of a `Bijection` do their work with. Log-determinants are compared as it
            has them: estimates differ by their errors.
        domain: Where proven bounds are to hold; None for the smallest `Domain` that has the batch.
        loss: A number for a batch of images, whose gradients by all parameters are compared.
        jacobians: Of how many samples, the first ones, singular values are found.
        directions: Of which maps.
        spectrum: How singular values are found; None for `DenseSpectrum()` up to 4096 values, of
            models that solve fixed points up to 512, and for `LanczosSpectrum()` above.
        trips: Round trips one after another of the second reconstruction errors.
        pixel_scale: What a unit of x is in pixel values, 255 for images in [0, 1].
        leave_out: What is not measured.

    Raises:
        TypeError: If the model is of no kind that can be measured, or cannot be copied.
        ValueError: If the batch is empty, the model gives more or fewer values than it takes,
            nothing at all could be measured, or an argument means nothing.
    """
    _check(x, jacobians, trips, leave_out)
    chosen = default_spectrum(x[0].numel(), solves=_solves(model)) if spectrum is None else spectrum
    precisions, wanted = tuple(dtypes), {part: part not in leave_out for part in PARTS}
    work = _Measuring(invertible_map(model, using), Point(x, context))
    values = work.singular_values(
        chosen, jacobians, directions if wanted["singular values"] else ()
    )
    finite = all(bool(t.isfinite().all()) for t in (x, context) if t is not None)
    where = Domain.around(x, context) if domain is None and finite else domain
    bounds, everywhere = work.bounds(model, where) if wanted["bounds"] else ({}, Bounds())
    whole = composed(bounds.values()) if bounds else Bounds()
    trip = partial(reconstruction, trips=trips, pixel_scale=pixel_scale)
    angle = partial(gradient_angle, loss=loss)
    report = StabilityReport(
        samples=len(x),
        dimension=x[0].numel(),
        reconstruction=work.each(
            "round trip", trip, precisions if wanted["reconstruction"] else ()
        ),
        singular_values=values,
        lipschitz=work.lipschitz(directions if wanted["lipschitz"] else ()),
        log_det=work.log_dets(values, precisions if wanted["log-det"] else ()),
        bounds=bounds,
        stretch=whole.transform,
        inverse_stretch=whole.inverse,
        everywhere=everywhere,
        gradients=work.each("gradients", angle, precisions if wanted["gradients"] else ()),
        failures=tuple(work.failures),
    )
    _require_figures(report)
    return report


@dataclass(frozen=True)
class _Measuring:
    """A model and a batch, copies of both, and what went wrong.

    Attributes:
        model: What is measured.
        point: The batch.
        failures: What could not be measured, and why.
        copies: Of the model, by precision.
    """

    model: InvertibleMap
    point: Point
    failures: list[str] = field(default_factory=list)
    copies: dict[torch.dtype, InvertibleMap] = field(default_factory=dict)

    def at(self, dtype: torch.dtype) -> tuple[InvertibleMap, Point]:
        """The copy and the batch in a precision."""
        if dtype not in self.copies:
            self.copies[dtype] = self.model.at(dtype)
        return self.copies[dtype], self.point.to(dtype)

    def each(
        self,
        what: str,
        measure: Callable[[InvertibleMap, Point], Found | None],
        dtypes: Sequence[torch.dtype],
    ) -> dict[str, Found]:
        """A measurement in every precision."""
        found: dict[str, Found] = {}
        for dtype in dtypes:
            name = dtype_name(dtype)
            with self._reported(f"{what} {name}"):
                result = measure(*self.at(dtype))
                if result is not None:
                    found[name] = result
        return found

    def singular_values(
        self, spectrum: Spectrum, count: int, directions: Sequence[Direction]
    ) -> dict[str, tuple[SingularValues, ...]]:
        """Of the first samples, and of their images."""
        found: dict[str, tuple[SingularValues, ...]] = {}
        for direction in directions if count else ():
            with self._reported(f"singular values of {direction}"):
                there, back, point = self._facing(direction, slice(count))
                samples = (point[i : i + 1] for i in range(len(point.x)))
                found[direction] = tuple(spectrum.of(there, back, sample) for sample in samples)
        return found

    def lipschitz(self, directions: Sequence[Direction]) -> dict[str, FiniteErrors]:
        """Ritz values of a few steps, at all samples at once."""
        found: dict[str, FiniteErrors] = {}
        for direction in directions:
            with self._reported(f"Lipschitz constants of {direction}"):
                there, _, point = self._facing(direction, slice(None))
                found[direction] = finite_errors(ritz_values(there, point, _STEPS, seed=0))
        return found

    def bounds(self, model: object, domain: Domain | None) -> tuple[dict[str, Bounds], Bounds]:
        """Of every layer on a domain, and of the whole everywhere; none of other libraries."""
        bijection = model.bijection if isinstance(model, Flow) else model
        if isinstance(bijection, Bijection):
            if domain is None:
                return {}, Bounds()
            with self._reported("bounds"):
                # Networks of others draw numbers and move statistics in training.
                still = copied(bijection, torch.float64)
                return layer_bounds(still, domain), still.bounds()
        return {}, Bounds()

    def log_dets(
        self, values: dict[str, tuple[SingularValues, ...]], dtypes: Sequence[torch.dtype]
    ) -> dict[str, FiniteErrors]:
        """What the model reports beside Σ log σ, where all singular values are known."""
        known = [v.log_abs_det for v in values.get("transform", ()) if v.log_abs_det is not None]
        numeric = torch.tensor(known, dtype=torch.float64)

        def difference(model: InvertibleMap, point: Point) -> FiniteErrors | None:
            if model.log_det is None or not known:
                return None
            try:
                reported, _ = evaluated(model.log_det, point[: len(known)])
            except NotImplementedError:
                return None
            return finite_errors((in_float64(reported).cpu() - numeric).abs())

        return self.each("log-det", difference, dtypes)

    def _facing(
        self, direction: Direction, samples: slice
    ) -> tuple[Callable[..., Tensor], Callable[..., Tensor], Point]:
        """The map of a direction, the one that undoes it, and what it is given, in float64."""
        model, point = self.at(torch.float64)
        point = point[samples]
        if direction == "transform":
            return model.transform, model.inverse, point
        with torch.no_grad():
            image = point.through(model.transform)
        return model.inverse, model.transform, point.moved(image)

    @contextmanager
    def _reported(self, what: str) -> Generator[None]:
        """Note what fails and go on."""
        try:
            yield
        except (SolverError, RuntimeError) as error:
            self.failures.append(f"{what}: {type(error).__name__}: {error}")


def _check(x: Tensor, jacobians: int, trips: int, leave_out: Collection[str]) -> None:
    require_integer("jacobians", jacobians, 0)
    require_integer("trips", trips, 1)
    if x.ndim == 0 or not x.numel():
        raise ValueError(f"expected a batch of samples with values, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"expected floating-point samples, got {x.dtype}; convert them: x.float()")
    if unknown := set(leave_out) - set(PARTS):
        raise ValueError(f"leave_out: expected some of {PARTS}, got {sorted(unknown)}")


def _require_figures(report: StabilityReport) -> None:
    """Refuse a batch that the model does not take: everything fails, and bounds tell nothing."""
    found = (report.reconstruction, report.singular_values, report.lipschitz, report.gradients)
    if report.failures and not any(found):
        raise ValueError(
            f"expected a batch that the model takes, got samples of {report.dimension} values; "
            f"every measurement failed, first {report.failures[0]}"
        )


def _solves(model: object) -> bool:
    """Whether fixed points are solved somewhere inside."""
    return isinstance(model, nn.Module) and any(
        isinstance(module, FixedPointBlock) for module in model.modules()
    )
