"""Learning curves."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = ("nats", "bits_per_dim", "mse", "cross_entropy", "accuracy")


def draw_learning_curve(metrics: Path, path: Path) -> None:
    """The figures of merit of every split over the steps; nothing where none was logged."""
    rows = read_metrics(metrics)
    units = [name for name in _UNITS if any(name in row for row in rows)]
    if not units:
        return
    figure = new_figure(6.0 * len(units), 4.0)
    for column, unit in enumerate(units, 1):
        _draw_unit(figure.add_subplot(1, len(units), column), rows, unit)
    save_figure(figure, path)


def _draw_unit(axes: "Axes", rows: list[dict[str, Any]], unit: str) -> None:
    for split in sorted({row["split"] for row in rows if unit in row}):
        steps, values = _curve(rows, split, unit)
        axes.plot(steps, values, label=split, linewidth=0.8 if split == "train" else 1.5)
    axes.set_xlabel("step")
    axes.set_ylabel(unit.replace("_", " "))
    axes.legend()
    if unit == "mse":
        axes.set_yscale("log")


def _curve(rows: list[dict[str, Any]], split: str, unit: str) -> tuple[list[int], list[float]]:
    chosen = [row for row in rows if row["split"] == split and unit in row]
    return [row["step"] for row in chosen], [float(row[unit]) for row in chosen]
