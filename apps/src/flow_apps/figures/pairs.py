"""Pictures of tables: every column against every other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.figures.histogram import bins_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 6
_COLOURS = ("tab:blue", "tab:orange")
# What lies outside is left out of the picture, so that single rows do not set its scale.
_SHOWN = (0.005, 0.995)
_MARGIN = 0.1


def draw_pairs(
    parts: Mapping[str, Float[Tensor, "rows columns"]], columns: Sequence[str], path: Path
) -> None:
    """A panel for every pair of at most six columns, and their histograms on the diagonal.

    Args:
        parts: One or two tables by name: the first is below the diagonal and sets the scale, the
            second above it.
        columns: Names of the columns; of more than six, six that are spread over them are drawn.
        path: Of the PNG.
    """
    count = min(len(columns), _MOST)
    chosen = torch.linspace(0, len(columns) - 1, count).round().long()
    shown = {name: rows.detach().double().cpu()[:, chosen] for name, rows in parts.items()}
    limits = _limits(next(iter(shown.values())))
    figure = new_figure(1.8 * count + 1.0, 1.8 * count + 0.6)
    panels = figure.subplots(count, count, squeeze=False)
    for row in range(count):
        for column in range(count):
            axes = panels[row][column]
            if row == column:
                _histograms(axes, shown, row, limits[row])
            else:
                _points(axes, shown, row, column)
                axes.set_ylim(*limits[row])
            axes.set_xlim(*limits[column])
            _label(axes, columns, chosen.tolist(), (row, column))
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    save_figure(figure, path)


def _limits(rows: Float[Tensor, "rows columns"]) -> list[tuple[float, float]]:
    low, high = torch.quantile(rows, torch.tensor(_SHOWN, dtype=rows.dtype), dim=0)
    margin = _MARGIN * (high - low) + 1e-9
    return list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def _histograms(
    axes: "Axes", shown: Mapping[str, Tensor], column: int, limits: tuple[float, float]
) -> None:
    for (name, rows), colour in zip(shown.items(), _COLOURS, strict=False):
        axes.hist(
            rows[:, column].numpy(),
            bins=bins_for(len(rows)),
            range=limits,
            color=colour,
            label=name,
            density=True,
            alpha=0.55,
        )
    axes.set_yticks([])


def _points(axes: "Axes", shown: Mapping[str, Tensor], row: int, column: int) -> None:
    which = 1 if row < column and len(shown) > 1 else 0
    rows = list(shown.values())[which]
    x, y = rows[:, column].numpy(), rows[:, row].numpy()
    size = max(0.3, min(4.0, 2000 / max(len(rows), 1)))
    axes.scatter(x, y, s=size, color=_COLOURS[which], alpha=0.5, linewidths=0)


def _label(
    axes: "Axes", columns: Sequence[str], chosen: Sequence[int], place: tuple[int, int]
) -> None:
    row, column = place
    axes.tick_params(labelsize=6)
    if row == len(chosen) - 1:
        axes.set_xlabel(columns[chosen[column]], fontsize=8)
    else:
        axes.set_xticklabels([])
    if column == 0:
        axes.set_ylabel(columns[chosen[row]], fontsize=8)
    elif row != column:
        axes.set_yticklabels([])
