"""Images and their reconstructions, with what no picture can show in colours of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.figures.images import plot_images

_FAR = 1e6
_RED, _CYAN, _MAGENTA = (1.0, 0.0, 0.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0)
_INCHES = 0.5

Panels = Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]
"""By model and by set, images and their reconstructions."""


def painted(
    images: Float[Tensor, "count channels height width"],
) -> Float[Tensor, "count 3 height width"]:
    """Colour images in which pixels above 1e6 are red, below −1e6 cyan, and NaN magenta.

    Red and cyan are those of the published sheets, which let a NaN be whatever it is drawn as.
    """
    colours = images.nan_to_num(0.0, _FAR, -_FAR).clamp(0, 1).float()
    colours = colours[:, :3] if images.shape[1] >= 3 else colours[:, :1].expand(-1, 3, -1, -1)
    found = colours.clone()
    far = {_RED: images > _FAR, _CYAN: images < -_FAR, _MAGENTA: images.isnan()}
    for colour, where in far.items():
        mask = where.any(1, keepdim=True)
        found = torch.where(mask, torch.tensor(colour).view(1, 3, 1, 1), found)
    return found


def draw_outliers(panels: Panels, path: Path) -> None:
    """A column for each model, a row for each set: images above their reconstructions."""
    names = list(dict.fromkeys(name for of_model in panels.values() for name in of_model))
    most = max((len(pair[0]) for sets in panels.values() for pair in sets.values()), default=0)
    if not most:
        return
    width = len(panels) * (_INCHES * most + 0.6)
    figure = new_figure(width, len(names) * (2 * _INCHES + 0.35))
    grid = figure.subplots(len(names), len(panels), squeeze=False)
    for column, (model, sets) in enumerate(panels.items()):
        for row, name in enumerate(names):
            axes = grid[row][column]
            axes.set_axis_off()
            if name in sets:
                plot_images(axes, _above(sets[name]), len(sets[name][0]))
            axes.set_title(f"{model}: {name}", fontsize=7)
    save_figure(figure, path)


def _above(pair: Sequence[Tensor]) -> Tensor:
    return torch.cat([painted(images) for images in pair])
