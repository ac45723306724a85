"""Histograms of numbers that samples have."""

from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure

_MOST_BINS = 50
# The lowest log-likelihoods reach far below all others.
_SHOWN = (0.01, 1.0)


def draw_histograms(values: Mapping[str, Float[Tensor, " count"]], label: str, path: Path) -> None:
    """Densities of several sets of numbers above each other, with their means.

    What lies below all but a hundredth of the numbers is counted in the first bin.

    Args:
        values: The sets by name.
        label: What the numbers are, with their unit.
        path: Of the PNG.
    """
    shown = {name: v.detach().double().cpu() for name, v in values.items()}
    every = torch.cat(list(shown.values()))
    low, high = torch.quantile(every, torch.tensor(_SHOWN, dtype=every.dtype)).tolist()
    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    for number, (name, found) in enumerate(shown.items()):
        mean, colour = float(found.mean()), f"C{number}"
        axes.hist(
            found.clamp(low, high).numpy(),
            bins=bins_for(min(map(len, shown.values()))),
            range=(low, high + 1e-9),
            density=True,
            alpha=0.5,
            color=colour,
            label=f"{name}, mean {mean:.2f}",
        )
        axes.axvline(max(mean, low), color=colour, linewidth=1.0)
    axes.set_xlabel(label)
    axes.set_ylabel("density")
    axes.legend()
    save_figure(figure, path)


def bins_for(count: int) -> int:
    """How many bins so many numbers fill."""
    return max(5, min(_MOST_BINS, 2 * isqrt(count)))
