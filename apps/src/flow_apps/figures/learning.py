"""Learning curves."""

from pathlib import Path
from typing import Any

from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.training.metrics import read_metrics

_UNITS = ("nats", "bits_per_dim", "mse")


def draw_learning_curve(metrics: Path, path: Path) -> None:
    """The figure of merit of every split over the steps; nothing where none was logged."""
    rows = read_metrics(metrics)
    unit = next((name for name in _UNITS if any(name in row for row in rows)), None)
    if unit is None:
        return
    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    for split in sorted({row["split"] for row in rows}):
        steps, values = _curve(rows, split, unit)
        axes.plot(steps, values, label=split, linewidth=0.8 if split == "train" else 1.5)
    axes.set_xlabel("step")
    axes.set_ylabel(unit.replace("_", " "))
    axes.legend()
    if unit == "mse":
        axes.set_yscale("log")
    save_figure(figure, path)


def _curve(rows: list[dict[str, Any]], split: str, unit: str) -> tuple[list[int], list[float]]:
    chosen = [row for row in rows if row["split"] == split and unit in row]
    return [row["step"] for row in chosen], [float(row[unit]) for row in chosen]
