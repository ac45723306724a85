"""Sheets of images."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure


def draw_images(images: Float[Tensor, "count channels height width"], path: Path) -> None:
    """Images with values in [0, 1] on a sheet that is about square."""
    from torchvision.utils import make_grid  # noqa: PLC0415 (takes longer than all else here)

    columns = max(1, round(len(images) ** 0.5))
    sheet = make_grid(images.detach().float().cpu().clamp(0, 1), nrow=columns, pad_value=0.5)
    rows = -(-len(images) // columns)
    figure = new_figure(0.8 * columns, 0.8 * rows)
    axes = figure.subplots()
    axes.imshow(sheet.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_axis_off()
    save_figure(figure, path)
