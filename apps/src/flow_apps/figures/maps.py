"""Maps of the plane in colours of a logarithmic scale."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure

_RANGES = {
    "input_error": (1e-8, 1.0),
    "output_error": (1e-8, 1.0),
    "log_det_error": (1e-8, 10.0),
    "relative_log_det_error": (1e-8, 10.0),
    "condition": (1.0, 1e10),
    "density": (1e-5, 1.0),
}
_COLUMNS = 3


def draw_maps(
    maps: Mapping[str, Float64[Tensor, "rows columns"]], extent: float, path: Path
) -> None:
    """A panel for every map, clipped to its usual range; white where it is not finite.

    Args:
        maps: By name, rows from below.
        extent: Half the side of the square.
        path: Of the PNG.
    """
    from matplotlib.colors import LogNorm  # noqa: PLC0415

    rows = -(-len(maps) // _COLUMNS)
    figure = new_figure(4.6 * _COLUMNS, 4.0 * rows)
    square = (-extent, extent, -extent, extent)
    for place, (name, values) in enumerate(maps.items(), 1):
        low, high = _RANGES[name]
        shown = torch.where(values.isfinite(), values.clamp(low, high), torch.nan)
        axes = figure.add_subplot(rows, _COLUMNS, place)
        image = axes.imshow(
            shown.cpu().numpy(),
            extent=square,
            origin="lower",
            cmap="inferno",
            norm=LogNorm(low, high),
        )
        axes.set_title(name.replace("_", " "))
        figure.colorbar(image, ax=axes)
    save_figure(figure, path)
