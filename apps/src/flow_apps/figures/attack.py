"""What an attack on an inverse did, step by step and in pictures."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from flow_core.diagnostics import InverseAttack
from jaxtyping import Float
from torch import Tensor

from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.figures.images import draw_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 16
_RED = (0.9, 0.1, 0.1)


def draw_attacks(found: Mapping[str, InverseAttack], path: Path) -> None:
    """Errors over the steps of attacks beside each other, on one logarithmic scale.

    Median with the range from 10 to 90 %, mean and largest of the finite errors; a cross where the
    first sample broke, and a line for the bound at the worst points where that is finite.

    Args:
        found: By the names of runs.
        path: Of the PNG.
    """
    figure = new_figure(4.2 * len(found) + 0.6, 4.0)
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (name, attack) in zip(panels, found.items(), strict=True):
        _draw_course(axes, attack)
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("step")
        axes.legend(fontsize="small")
    panels[0].set_yscale("log")
    panels[0].set_ylabel("l2 error of the reconstruction")
    save_figure(figure, path)


def draw_panels(found: InverseAttack, path: Path) -> None:
    """Images that suffered most, perturbed, and the reconstructions of both; of the first seed.

    Values that are not finite are red.
    """
    # What broke comes first.
    suffered = found.errors[0].amax(0).nan_to_num(math.inf, math.inf)
    chosen = suffered.argsort(descending=True)[:_SHOWN]
    worst = found.worst[0][chosen]
    sheets = {
        "original": found.x[chosen],
        "perturbed": worst,
        "original, back": found.reconstructed[chosen],
        "perturbed, back": found.worst_reconstructed[0][chosen],
    }
    draw_beside({name: _in_colours(images) for name, images in sheets.items()}, path)


def _draw_course(axes: "Axes", attack: InverseAttack) -> None:
    course = attack.course
    steps = range(len(course))
    low, middle, high = (
        [_positive(step.quantiles[k]) for step in course] for k in range(len(course[0].quantiles))
    )
    (line,) = axes.plot(steps, middle, label="median, 10 to 90 %")
    axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.plot(steps, [_positive(step.mean) for step in course], label="mean", linestyle="--")
    axes.plot(steps, [_positive(step.largest) for step in course], label="largest", linewidth=0.8)
    if attack.first_broken is not None:
        last = course[-1]
        label = f"{last.nan} NaN, {last.inf} Inf, first at {attack.first_broken}"
        edge = axes.get_xaxis_transform()
        axes.plot([attack.first_broken], [0.97], "kx", transform=edge, label=label)
    if attack.bound is not None and attack.bound.bounds.finite:
        axes.axhline(attack.bound.bounds.largest, color="k", linestyle=":", label="bound")


def _in_colours(
    images: Float[Tensor, "count channels height width"],
) -> Float[Tensor, "count 3 height width"]:
    """The channels of a picture; others, that a flow has beside them, are left out."""
    shown = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    broken = ~shown.isfinite().all(1, keepdim=True)
    red = shown.new_tensor(_RED).reshape(1, 3, 1, 1)
    return torch.where(broken, red, shown)


def _positive(value: float) -> float:
    """A value on a logarithmic axis, NaN where it has no place there."""
    return value if 0 < value < math.inf else math.nan
