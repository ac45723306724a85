"""A picture of a stability report. matplotlib is imported where it draws: an optional extra."""

import math
from collections.abc import Callable
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING

from flow_core.diagnostics.stability.report import StabilityReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_stability(report: StabilityReport) -> "Figure":
    """Reconstruction errors, singular values and bounds over depth, as far as the report has them.

    Args:
        report: Of one model and one batch.

    Returns:
        A figure without a window; `figure.savefig(path)` writes it.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the report has nothing that can be drawn.
    """
    panels: list[tuple[Callable[[Axes, StabilityReport], None], object]] = [
        (_draw_errors, report.reconstruction),
        (_draw_singular_values, report.singular_values),
        (_draw_bounds, report.bounds),
    ]
    shown = [draw for draw, figures in panels if figures]
    if not shown:
        raise ValueError("expected a report with figures to draw, got one with everything left out")
    figure = _figure(4.5 * len(shown), 4.0)
    for axes, draw in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        draw(axes, report)
    return figure


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "draw_stability: expected matplotlib, which is not installed; "
            "pip install 'flow-core[figures]', or print the report"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_errors(axes: "Axes", report: StabilityReport) -> None:
    """Mean and largest error of every measure, one colour a precision."""
    for dtype, found in report.reconstruction.items():
        after = f"{found.trips} trips"
        measures = {
            "l2": found.l2,
            "mean square": found.mean_square,
            f"mean square,\n{after}": found.mean_square_after,
            "mean absolute": found.mean_absolute,
            f"mean absolute,\n{after}": found.mean_absolute_after,
        }
        lost = found.l2.samples - found.l2.finite
        label = f"{dtype}, {lost} of {found.l2.samples} not finite" if lost else dtype
        means = [_positive(error.mean) for error in measures.values()]
        largest = [_positive(error.largest) for error in measures.values()]
        (line,) = axes.plot(list(measures), means, "o", label=label)
        axes.plot(list(measures), largest, "_", color=line.get_color(), markersize=14)
    axes.set_yscale("log")
    axes.tick_params("x", rotation=60)
    axes.set_title("reconstruction error: mean, largest (-)", fontsize="medium")
    axes.legend()


def _draw_singular_values(axes: "Axes", report: StabilityReport) -> None:
    """Over their rank, or the brackets around the ends."""
    for number, (direction, samples) in enumerate(report.singular_values.items()):
        for index, found in enumerate(samples):
            colour, label = f"C{number}", "_" if index else direction
            if found.values:
                rank = [i / max(len(found.values) - 1, 1) for i in range(len(found.values))]
                values = [_positive(value) for value in found.values]
                axes.plot(rank, values, linewidth=1.0, color=colour, label=label)
                continue
            for end, place in ((found.largest, 0), (found.smallest, 1)):
                reach = [_positive(end.lower), _positive(end.upper)]
                axes.plot([place, place], reach, "_-", markersize=14, color=colour, label=label)
                label = "_"
    axes.set_yscale("log")
    axes.set_xlabel("rank / dimension")
    axes.set_title("singular values of the Jacobian", fontsize="medium")
    axes.legend()


def _draw_bounds(axes: "Axes", report: StabilityReport) -> None:
    """Products of the bounds from the input on, and from the output back."""
    bounds = list(report.bounds.values())
    forward = list(accumulate((bound.transform for bound in bounds), mul))
    backward = list(accumulate((bound.inverse for bound in reversed(bounds)), mul))[::-1]
    for products, label in (
        (forward, "transform, up to this layer"),
        (backward, "inverse, down to this layer"),
    ):
        # What is infinite has no place on the axis, and is not to look as if it were missing.
        ends = " (infinite)" if math.inf in products else ""
        axes.plot([_positive(v) for v in products], label=label + ends)
    axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.set_title("proven bounds, multiplied", fontsize="medium")
    axes.legend()


def _positive(value: float) -> float:
    """A value on a logarithmic axis, NaN where it has no place there."""
    return value if 0 < value < math.inf else math.nan
