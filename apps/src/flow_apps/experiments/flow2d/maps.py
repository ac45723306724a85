"""What a flow does at the points of a grid."""

from collections.abc import Mapping
from pathlib import Path

import torch
from flow_core.distributions import Flow
from flow_core.jacobian import jacobian
from flow_core.settings import Settings, Solve
from flow_logdet import log_abs_det
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.flow2d.config import Flow2dConfig, GridConfig
from flow_apps.figures.maps import draw_maps
from flow_apps.parts.settings import solve
from flow_apps.parts.stability import extreme_singular_values
from flow_apps.training.files import write_array

_AT_A_TIME = 5000
_SCALARS = ("input_error", "output_error", "log_det_error", "condition")


def grid_points(grid: GridConfig) -> Float[Tensor, "cells 2"]:
    """Row by row from below; the upper ends of the square are left out."""
    count = round(2 * grid.extent / grid.step)
    side = torch.arange(count, dtype=torch.float64) * grid.step - grid.extent
    return torch.cartesian_prod(side, side).flip(1).to(torch.get_default_dtype())


class GridMaps:
    """Errors, condition numbers and densities on a grid.

    Solves that miss their tolerance are left as they are: what that does is on the map.

    Args:
        config: Of the experiment.
        model: A flow.
    """

    def __init__(self, config: Flow2dConfig, model: Flow) -> None:
        self.config = config
        self.model = model
        tolerance = solve(config.contraction).tolerance
        self.using = Settings(solve=Solve(tolerance=tolerance, on_failure="return"))

    def measure(self) -> dict[str, Float[Tensor, " cells"]]:
        """Values at the points of the grid by the name of the map, in float64.

        input_error is ‖x − F⁻¹(F(x))‖, output_error ‖z − F(F⁻¹(z))‖ with z on the grid,
        log_det_error that of the float32 log-determinant against the one of its float32 Jacobian in
        nats, relative_log_det_error that divided by |log p(x)|, and density p(x).
        """
        device = next(self.model.parameters()).device
        parts = torch.split(grid_points(self.config.grid).to(device), _AT_A_TIME)
        found = [self._measured(x) for x in parts]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def figures(self) -> dict[str, Mapping[str, float]]:
        """Of the maps: mean, median and largest of what is finite, and how much is not."""
        maps = self.measure()
        return {name: told(maps[name]) for name in _SCALARS}

    def draw(self, folder: Path, step: int) -> None:
        """One picture of all maps, and each of them as numbers, rows from below."""
        maps, grid = self.measure(), self.config.grid
        count = round(2 * grid.extent / grid.step)
        square = {name: values.reshape(count, count) for name, values in maps.items()}
        for name, values in square.items():
            write_array(folder / f"map_{name}.npy", values)
        draw_maps(square, grid.extent, folder / f"maps_{step:06d}.png")

    @torch.no_grad()
    def _measured(self, x: Float[Tensor, "count 2"]) -> dict[str, Tensor]:
        bijection, using = self.model.bijection, self.using
        z, log_det = bijection.transform_and_log_det(x, using=using)
        back = bijection.inverse(z, using=using)
        forth = bijection.transform(bijection.inverse(x, using=using), using=using)
        matrix = jacobian(bijection, x, using=using).double()
        extremes = extreme_singular_values(matrix)
        log_prob = (self.model.base.log_prob(z) + log_det).double()
        numeric = log_abs_det(matrix)
        error = (numeric - log_det.double()).abs()
        return {
            "input_error": _distance(back, x),
            "output_error": _distance(forth, x),
            "log_det_error": error,
            "relative_log_det_error": error / log_prob.abs(),
            "condition": extremes[:, 0] / extremes[:, 1],
            "density": log_prob.exp(),
        }


def told(values: Float[Tensor, " count"]) -> dict[str, float]:
    """Mean, median and largest of the finite ones, and how many are NaN and infinite."""
    finite = values[values.isfinite()]
    counts = {"nan": float(values.isnan().sum()), "inf": float(values.isinf().sum())}
    if not len(finite):
        return counts
    figures = {"mean": finite.mean(), "median": finite.median(), "max": finite.max()}
    return {name: float(value) for name, value in figures.items()} | counts


def _distance(x: Tensor, y: Tensor) -> Float[Tensor, " count"]:
    return (x.double() - y.double()).square().sum(1).sqrt()
