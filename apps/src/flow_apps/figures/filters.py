"""Sheets of the kernels of convolutions."""

import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from flow_apps.figures.canvas import new_figure, save_figure

_LAYERS = 36
_CHANNELS = 8


def draw_filters(
    kernels: Mapping[str, Float[Tensor, "outputs inputs height width"]], path: Path
) -> None:
    """A panel for each of the first layers, with the kernels of its first channels.

    Output channels go down and input channels to the right. Blue taps are positive and red ones
    negative, against the largest of the layer.
    """
    shown = dict(islice(kernels.items(), _LAYERS))
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(1.6 * columns, 1.6 * rows)
    for place, (name, kernel) in enumerate(shown.items(), 1):
        sheet = _tiled(kernel[:_CHANNELS, :_CHANNELS].detach().float().cpu())
        largest = float(sheet.nan_to_num().abs().max())
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(sheet.numpy(), cmap="RdBu", vmin=-largest, vmax=largest)
        axes.set_title(name, fontsize=5)
        axes.set_axis_off()
    save_figure(figure, path)


def _tiled(kernel: Float[Tensor, "outputs inputs height width"]) -> Float[Tensor, "rows columns"]:
    """One picture of all kernels, with an empty line after each of several taps."""
    if kernel[0, 0].numel() > 1:
        kernel = pad(kernel, (0, 1, 0, 1), value=math.nan)
    outputs, inputs, height, width = kernel.shape
    return kernel.transpose(1, 2).reshape(outputs * height, inputs * width)
