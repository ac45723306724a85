"""How far a reconstruction can be from its sample, from what is proven of the inverse."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from flow_solvers import Tolerance
from jaxtyping import Float, Float64
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.diagnostics.attack.errors import distances
from flow_core.diagnostics.attack.lenient import lenient_map
from flow_core.diagnostics.copies import copied
from flow_core.diagnostics.invertible import Invertible, Point, evaluated, invertible_map
from flow_core.diagnostics.stability.reconstruction import FiniteErrors, finite_errors
from flow_core.distributions import Flow
from flow_core.domain import Domain
from flow_core.record import Report, record
from flow_core.settings import Settings, Solve

_TRIES = 8
_ROUNDING = 1e-9
_REFERENCE = Solve(tolerance=Tolerance(rtol=1e-13), on_failure="return")


@dataclass(frozen=True)
class InverseErrorBound:
    """Measured errors of reconstructions beside a bound of them, sample by sample.

    Attributes:
        lipschitz: Of the inverse, proven; infinite where it is not.
        reach: How far from the samples it holds in l2; infinite where it holds everywhere.
        residual: ‖F(x̂) − z‖₂, what the inverse left of z: its solves, and its rounding.
        rounding: ‖z − F(x)‖₂, of the transform.
        solver_residual: The largest rms residual that a solve of the inverse told; None without
            any.
        bounds: lipschitz·(residual + rounding).
        measured: ‖x̂ − x‖₂.
        ratio: measured/bound, at most 1 where the bound holds.
        beyond: Samples whose error exceeds their bound, or is not finite where that is.
    """

    lipschitz: float
    reach: float
    residual: FiniteErrors
    rounding: FiniteErrors
    solver_residual: float | None
    bounds: FiniteErrors
    measured: FiniteErrors
    ratio: FiniteErrors
    beyond: int

    @property
    def holds(self) -> bool:
        """Whether no sample exceeds it."""
        return not self.beyond

    def __str__(self) -> str:
        if not self.lipschitz < math.inf:
            return (
                "bound of the l2 error: none, nothing is proven of the inverse; residual of the "
                f"inverse {self.residual.largest:.2e}, rounding of the transform "
                f"{self.rounding.largest:.2e}"
            )
        where = "everywhere" if self.reach == math.inf else f"up to {self.reach:.2e} from them"
        solver = "" if self.solver_residual is None else f" (solves {self.solver_residual:.2e} rms)"
        verdict = "holds" if self.holds else f"EXCEEDED by {self.beyond} samples"
        return (
            f"bound of the l2 error: {self.bounds}, {verdict}; measured/bound {self.ratio}\n"
            f"  inverse stretches by at most {self.lipschitz:.4g} {where}, residual of the inverse "
            f"{self.residual.largest:.2e}{solver}, rounding of the transform "
            f"{self.rounding.largest:.2e}"
        )


def inverse_error_bound(
    model: Invertible,
    x: Float[Tensor, " batch *shape"],
    *,
    context: Tensor | None = None,
    using: Settings | None = None,
    lipschitz: float | None = None,
) -> InverseErrorBound:
    """Compare ‖x̂ − x‖ with Lip(F⁻¹)·(residual of the inverse + rounding of the transform).

    Let z be the computed F(x) and x̂ the computed F⁻¹(z). With F itself, which stands for a copy in
    float64 that solves to 1e-13,

        ‖x̂ − x‖ ≤ Lip(F⁻¹)·‖F(x̂) − F(x)‖ ≤ Lip(F⁻¹)·(‖F(x̂) − z‖ + ‖z − F(x)‖).

    The first term is measured as a whole: it has what solves leave and what the inverse rounds, in
    the units of z, however many layers there are; of one residual block it is the residual of its
    solve. The second is the rounding of the transform. Neither knows x̂ − x, so a constant that is
    too small is found out. Both need a precision above that of x.

    Where Lip(F⁻¹) holds on a domain only, that has all points up to R from the samples, the bound
    is proven as long as it is at most R: the way back from F(x) to F(x̂) begins in x and is too
    short to leave. R is raised until that is so, and the bound is infinite where it never is.

    Args:
        model: Any invertible model; of those that are no `Bijection` nothing is proven.
        x: Samples.
        context: Of the samples.
        using: What the passes that are measured do their work with.
        lipschitz: A constant of the inverse that is known otherwise; None for what is proven.

    Raises:
        TypeError: If x is not in float32: nothing is wide enough to measure float64 with.
    """
    if x.dtype != torch.float32:
        raise TypeError(f"expected samples in float32, whose rounding can be seen, got {x.dtype}")
    point = Point(x, context)
    passes = lenient_map(model, x.dtype, using)
    exact_model = copied(model, torch.float64)
    exact = invertible_map(exact_model, _reference(using)).transform
    z, _ = evaluated(passes.transform, point)
    with record() as report:
        back, _ = evaluated(passes.inverse, point.moved(z))
    at_x, at_back = (evaluated(exact, p.to(torch.float64))[0] for p in (point, point.moved(back)))
    residual, rounding = distances(at_back, z), distances(z, at_x)
    proven = _Proven(math.inf if lipschitz is None else lipschitz, math.inf)
    bijection = exact_model.bijection if isinstance(exact_model, Flow) else exact_model
    if lipschitz is None and isinstance(bijection, Bijection):
        proven = _proven(bijection, point, _largest(residual + rounding))
    return _compared(proven, distances(back, x), residual, rounding, _worst_residual(report))


class _Proven(NamedTuple):
    """A Lipschitz constant of the inverse, and how far from the samples it holds."""

    lipschitz: float
    reach: float


def _proven(bijection: Bijection, point: Point, defect: float) -> _Proven:
    """Lip(F⁻¹), and how far from the samples it holds: at least Lip(F⁻¹)·defect.

    Both are infinite where nothing is proven, the distance also where the constant holds
    everywhere. Samples that are not finite are left out.
    """
    everywhere = bijection.bounds().inverse
    x, context = point.x, point.context
    finite = x.reshape(len(x), -1).isfinite().all(1)
    if everywhere < math.inf or not bool(finite.any()) or not defect < math.inf:
        return _Proven(everywhere, math.inf)
    around = Domain.around(x[finite], None if context is None else context[finite])
    reach = 0.0
    for _ in range(_TRIES):
        domain = around.image(around.lower - reach, around.upper + reach, around.norm + reach)
        found = bijection.bounds_on(domain).bounds.inverse
        if found * defect <= reach:
            return _Proven(found, reach)
        reach = 2 * found * defect
        if not reach < math.inf:
            break
    return _Proven(math.inf, math.inf)


def _compared(
    proven: _Proven,
    measured: Float64[Tensor, " batch"],
    residual: Float64[Tensor, " batch"],
    rounding: Float64[Tensor, " batch"],
    solver_residual: float | None,
) -> InverseErrorBound:
    bounds = proven.lipschitz * (residual + rounding)
    # Nothing can be wrong with what is exact, and infinity bounds everything.
    ratio = torch.where(measured == 0, 0.0, measured / bounds)
    # NaN too.
    beyond = bounds.isfinite() & ~(measured <= bounds * (1 + _ROUNDING))
    return InverseErrorBound(
        *proven,
        finite_errors(residual),
        finite_errors(rounding),
        solver_residual,
        finite_errors(bounds),
        finite_errors(measured),
        finite_errors(ratio),
        int(beyond.sum()),
    )


def _largest(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.max()) if len(finite) else math.inf


def _worst_residual(report: Report) -> float | None:
    solved = [block.residual for block in report.summary().values() if block.solves]
    return max(solved, default=None)


def _reference(using: Settings | None) -> Settings:
    return replace(Settings() if using is None else using, solve=_REFERENCE, compiled=frozenset())
