"""Pictures of two-dimensional densities."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from flow_core.distributions import Flow
from jaxtyping import Float
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EXTENT = 4.0
_CELLS = 150


def draw_density(flow: Flow, points: Float[Tensor, "count 2"], path: Path) -> None:
    """Data on the left, the density of the model on the right, on [-4, 4]²."""
    figure = new_figure(8.0, 4.0)
    left, right = figure.subplots(1, 2)
    _histogram(left, points)
    left.set_title("data")
    right.imshow(_density(flow, points.device), extent=_square(), origin="lower", cmap="inferno")
    right.set_title("model")
    _plain(left, right)
    save_figure(figure, path)


def draw_points(points: Float[Tensor, "count 2"], path: Path) -> None:
    """A histogram of points on [-4, 4]²."""
    figure = new_figure(4.0, 4.0)
    axes = figure.subplots()
    _histogram(axes, points)
    _plain(axes)
    save_figure(figure, path)


def _density(flow: Flow, device: torch.device) -> object:
    """The density on a grid, row by row from below."""
    side = torch.linspace(-_EXTENT, _EXTENT, _CELLS, device=device)
    grid = torch.cartesian_prod(side, side).flip(1)
    with torch.no_grad():
        log_prob = torch.cat([flow.log_prob(part) for part in torch.split(grid, 5000)])
    return log_prob.exp().reshape(_CELLS, _CELLS).cpu().numpy()


def _histogram(axes: "Axes", points: Tensor) -> None:
    x, y = points.detach().double().cpu().unbind(1)
    limits = [[-_EXTENT, _EXTENT], [-_EXTENT, _EXTENT]]
    axes.hist2d(x.numpy(), y.numpy(), bins=_CELLS, range=limits, cmap="inferno")


def _square() -> tuple[float, float, float, float]:
    return (-_EXTENT, _EXTENT, -_EXTENT, _EXTENT)


def _plain(*axes: "Axes") -> None:
    for one in axes:
        one.set_aspect("equal")
        one.set_xticks([])
        one.set_yticks([])
