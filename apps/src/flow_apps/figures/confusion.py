"""Which classes are taken for which."""

from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure

_LARGEST_WITH_NUMBERS = 20


def draw_confusion(counts: Int[Tensor, "classes classes"], path: Path) -> None:
    """A row for every true class, with the share of its samples that each class was said of.

    Shares are written in per cent where there are few classes.

    Args:
        counts: Samples of the class of the row that the class of the column was said of.
        path: Of the PNG.
    """
    rows = counts.double().cpu()
    shares = rows / rows.sum(1, keepdim=True).clamp(min=1)
    figure = new_figure(6.0, 5.4)
    axes = figure.subplots()
    shown = axes.imshow(shares.numpy(), vmin=0.0, vmax=1.0, cmap="Blues")
    figure.colorbar(shown, ax=axes, label="share of the true class")
    axes.set_xlabel("class said")
    axes.set_ylabel("true class")
    if len(counts) <= _LARGEST_WITH_NUMBERS:
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        for (row, column), share in _cells(shares):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    save_figure(figure, path)


def _cells(shares: Tensor) -> list[tuple[tuple[int, int], float]]:
    """Row, column and value of every cell that is not empty."""
    return [
        ((row, column), float(shares[row, column])) for row, column in shares.nonzero().tolist()
    ]
