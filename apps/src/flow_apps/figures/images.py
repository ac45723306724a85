"""Sheets of images."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.training.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UnitImages = Float[Tensor, "count channels height width"]

_INCHES = 0.8
_GAP = 0.5


def draw_images(images: UnitImages, path: Path) -> None:
    """Images with values in [0, 1] on a sheet that is about square."""
    _draw(images, max(1, round(len(images) ** 0.5)), path)


def draw_rows(rows: Float[Tensor, "rows columns channels height width"], path: Path) -> None:
    """Images with values in [0, 1], row by row."""
    _draw(rows.flatten(0, 1), rows.shape[1], path)


def draw_above(above: UnitImages, below: UnitImages, path: Path) -> None:
    """Images with values in [0, 1], each above its partner, on a sheet that is about square."""
    columns = max(1, round((2 * len(above)) ** 0.5))
    missing = -len(above) % columns
    filled = [torch.cat([x, x.new_full((missing, *x.shape[1:]), _GAP)]) for x in (above, below)]
    rows = torch.stack([x.reshape(-1, columns, *x.shape[1:]) for x in filled], 1)
    draw_rows(rows.flatten(0, 1), path)


def draw_beside(panels: Mapping[str, UnitImages], path: Path) -> None:
    """Sheets of images that are about square beside each other, under their names."""
    columns = max(1, round(max(map(len, panels.values())) ** 0.5))
    rows = max(-(-len(images) // columns) for images in panels.values())
    width = len(panels) * (_INCHES * columns + 0.1)
    figure = new_figure(width, _INCHES * rows + 0.3)
    sheets = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, images) in zip(sheets, panels.items(), strict=True):
        plot_images(axes, images, columns)
        axes.set_title(name)
    save_figure(figure, path)


def plot_images(axes: "Axes", images: UnitImages, columns: int) -> None:
    """Images with values in [0, 1] in axes without ticks, so many in a row; NaN is grey."""
    from torchvision.utils import make_grid  # noqa: PLC0415 (takes longer than all else here)

    shown = images.detach().float().cpu().nan_to_num(nan=_GAP).clamp(0, 1)
    sheet = make_grid(shown, nrow=columns, pad_value=_GAP)
    axes.imshow(sheet.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_axis_off()


def write_pixels(image: UInt8[Tensor, "channels height width"], path: Path) -> None:
    """Write one image as a PNG of its own size, with these bytes; one channel as three."""
    from torchvision.transforms.functional import to_pil_image  # noqa: PLC0415 (as above)

    buffer = io.BytesIO()
    to_pil_image(image.expand(3, -1, -1).cpu()).save(buffer, format="png")
    write_atomic(path, buffer.getvalue())


def _draw(images: UnitImages, columns: int, path: Path) -> None:
    rows = -(-len(images) // columns)
    figure = new_figure(_INCHES * columns, _INCHES * rows)
    plot_images(figure.subplots(), images, columns)
    save_figure(figure, path)
