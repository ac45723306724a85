"""Pictures of one-dimensional fits."""

from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_fit(
    x: Float[Tensor, "count 1"],
    target: Float[Tensor, "count 1"],
    fitted: Float[Tensor, "count 1"],
    path: Path,
) -> None:
    """A function and its fit above their difference, over a grid."""
    figure = new_figure(6.0, 6.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    plot_fit(above, below, x, target, fitted)
    save_figure(figure, path)


def plot_fit(
    above: "Axes",
    below: "Axes",
    x: Float[Tensor, "count 1"],
    target: Float[Tensor, "count 1"],
    fitted: Float[Tensor, "count 1"],
) -> None:
    """A function and its fit in the axes above, their difference in those below."""
    grid, wanted, got = (t.detach().double().flatten().cpu().numpy() for t in (x, target, fitted))
    above.plot(grid, wanted, color="black", linewidth=2.5, label="target")
    above.plot(grid, got, color="tab:red", linewidth=1.2, label="flow")
    above.legend()
    below.plot(grid, got - wanted, color="tab:red", linewidth=0.8)
    below.axhline(0.0, color="black", linewidth=0.5)
    below.set_ylabel("error")
    below.set_xlabel("x")
