"""One table of all models on all sets, as text, CSV and JSON."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from flow_core.diagnostics import StabilityReport
from jaxtyping import Float
from torch import Tensor

from flow_apps.outliers.measuring import SetResults


@dataclass(frozen=True)
class Statistics:
    """Of the finite ones among some numbers; NaN where there are none.

    Attributes:
        mean: Their mean.
        error: Its standard error; NaN of fewer than two.
        median: Their median.
        least: The smallest.
        largest: The largest.
        finite: How many they are.
    """

    mean: float = math.nan
    error: float = math.nan
    median: float = math.nan
    least: float = math.nan
    largest: float = math.nan
    finite: int = 0


def statistics(values: Float[Tensor, " count"]) -> Statistics:
    """Of the finite ones: a number that is none is in no mean."""
    finite = values[values.isfinite()].double()
    count = len(finite)
    if not count:
        return Statistics()
    error = float(finite.std()) / math.sqrt(count) if count > 1 else math.nan
    return Statistics(
        float(finite.mean()),
        error,
        float(finite.median()),
        float(finite.min()),
        float(finite.max()),
        count,
    )


@dataclass(frozen=True)
class OutliersRow:
    """A model on a set; shares are of its images, and add up to 1 with those that come back finite.

    Attributes:
        model: Name of the model.
        set: Name of the set.
        images: How many were measured.
        l2_mean: ‖x̂ − x‖₂ of whole images in [0, 1), of those that come back finite.
        l2_median: Its median over them.
        l2_min: Its least.
        l2_max: Its largest.
        nan: Share of the images that come back with a NaN.
        inf: Share of those that come back with infinite values, and no NaN.
        unsolved: Share of those of which a solve failed.
        latents_not_finite: Share of those whose latent has a NaN or an infinite value.
        pixels_1: Mean |x̂ − x| in pixel values, of 255, after one round trip.
        pixels_n: The same after `trips`, of those that are finite then.
        lost_n: Share of those that are not.
        trips: How many round trips that is.
        bits: Bits per dimension of the integers, with D·log 256 of their unit; of finite ones.
        bits_error: Standard error of the mean over images.
        bits_nan: Share of the images without one.
        bits_inf: Share of those of probability zero.
        condition: The largest condition number of a Jacobian that was found, at least.
        condition_of: How many images were looked at, and how.
        log_det_error: Largest |reported − Σ log σ| in nats; NaN where not all σ are known.
    """

    model: str
    set: str
    images: int
    l2_mean: float
    l2_median: float
    l2_min: float
    l2_max: float
    nan: float
    inf: float
    unsolved: float
    latents_not_finite: float
    pixels_1: float
    pixels_n: float
    lost_n: float
    trips: int
    bits: float
    bits_error: float
    bits_nan: float
    bits_inf: float
    condition: float
    condition_of: str
    log_det_error: float


def row_of(model: str, name: str, found: SetResults, trips: int) -> OutliersRow:
    """The row of what was found."""
    images, report = found.images, found.spectrum
    l2, bits = statistics(images.l2), statistics(images.bits)
    after = statistics(images.pixels_after)
    return OutliersRow(
        model=model,
        set=name,
        images=len(images.l2),
        l2_mean=l2.mean,
        l2_median=l2.median,
        l2_min=l2.least,
        l2_max=l2.largest,
        nan=_share(images.nan),
        inf=_share(images.inf),
        unsolved=_share(images.unsolved),
        latents_not_finite=_share(~images.latents),
        pixels_1=statistics(images.pixels).mean,
        pixels_n=after.mean,
        lost_n=1 - after.finite / len(images.l2),
        trips=trips,
        bits=bits.mean,
        bits_error=bits.error,
        bits_nan=_share(images.bits.isnan()),
        bits_inf=_share(images.bits.isinf()),
        condition=math.nan if report is None else report.condition,
        condition_of=_looked_at(report),
        log_det_error=_log_det_error(report),
    )


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def _looked_at(report: StabilityReport | None) -> str:
    values = () if report is None else report.singular_values.get("transform", ())
    if report is None or not values:
        return "" if report is None else "; ".join(report.failures)
    methods = {value.method.partition(":")[0] for value in values}
    return f"{len(values)}, {', '.join(sorted(methods))}"


def _log_det_error(report: StabilityReport | None) -> float:
    errors = [] if report is None else [error.largest for error in report.log_det.values()]
    return max(errors, default=math.nan)


_COLUMNS: Mapping[str, str] = {
    "model": "model",
    "set": "set",
    "images": "images",
    "l2_mean": "l2 mean",
    "l2_median": "median",
    "l2_min": "min",
    "l2_max": "max",
    "nan": "NaN",
    "inf": "Inf",
    "unsolved": "unsolved",
    "pixels_1": "pixels",
    "pixels_n": "after n",
    "lost_n": "lost",
    "bits": "bits/dim",
    "bits_error": "+-",
    "condition": "condition",
    "log_det_error": "log-det error",
}
_SHARES = {"nan", "inf", "unsolved", "lost_n"}


def as_text(rows: Sequence[OutliersRow], notes: Sequence[str]) -> str:
    """The table for people, with notes under it."""
    cells = [list(_COLUMNS.values())]
    cells += [[_cell(name, getattr(row, name)) for name in _COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    trips = rows[0].trips if rows else 0
    legend = (
        "l2: error of the reconstruction of a whole image in [0, 1), of those that come back "
        f"finite; pixels: mean absolute error of 255 after 1 and {trips} round trips; lost: not "
        "finite after them; bits/dim of integers, one draw of the noise."
    )
    return "\n".join([*lines, "", legend, *notes, ""])


def _cell(name: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    if name in _SHARES:
        return f"{100 * value:.1f}%"
    return f"{value:.3f}" if name in ("bits", "bits_error") else f"{value:.2e}"


def as_csv(rows: Sequence[OutliersRow]) -> str:
    """All columns under their names."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([f.name for f in fields(OutliersRow)])
    writer.writerows([list(asdict(row).values()) for row in rows])
    return stream.getvalue()
