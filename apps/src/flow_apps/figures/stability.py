"""How stably models invert, over the steps of their training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SPLIT = "stability"
_PANELS = {
    "reconstruction": "round trip, l2 (crosses: not finite)",
    "condition": "condition number",
    "largest_singular_value": "largest singular value",
    "smallest_singular_value": "smallest singular value",
}
_BROKEN = ("reconstruction_nan", "reconstruction_inf")


def draw_course(runs: Sequence[Path], path: Path) -> None:
    """Round trips and singular values over the steps; nothing where none were logged.

    Crosses at the upper edge are steps at which some round trips were not finite.

    Args:
        runs: The `metrics.jsonl` of one run or of several to be compared.
        path: Of the PNG.
    """
    found = {metrics.parent.name: _rows(metrics) for metrics in runs}
    if not any(found.values()):
        return
    rows = [row for one in found.values() for row in one]
    panels = [name for name in _PANELS if any(name in row for row in rows)] or ["reconstruction"]
    figure = new_figure(5.0 * len(panels), 4.0)
    for column, name in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), column)
        for run, own in found.items():
            _draw_run(axes, run, own, name)
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel(_PANELS[name])
    if len(found) > 1:
        figure.axes[0].legend()
    save_figure(figure, path)


def course(metrics: Path) -> dict[str, list[Any]]:
    """What was logged, as a list for every figure; None at steps that do not have it."""
    rows = _rows(metrics)
    names = dict.fromkeys(name for row in rows for name in row if name not in ("split", "at_end"))
    return {name: [row.get(name) for row in rows] for name in names}


def _rows(metrics: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(metrics) if row["split"] == _SPLIT]


def _draw_run(axes: "Axes", run: str, rows: list[dict[str, Any]], name: str) -> None:
    chosen = [(row["step"], float(row[name])) for row in rows if name in row]
    (line,) = axes.plot([s for s, _ in chosen], [v for _, v in chosen], marker=".", label=run)
    if name == "reconstruction":
        broken = [row["step"] for row in rows if any(float(row.get(n, 0)) for n in _BROKEN)]
        edge = axes.get_xaxis_transform()
        heights = [0.97] * len(broken)
        axes.plot(broken, heights, "x", color=line.get_color(), transform=edge)
