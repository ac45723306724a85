"""The flow2d experiment: published settings, and what the maps of the plane say."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_apps.errors import ConfigError
from flow_apps.experiments import EXPERIMENTS
from flow_apps.experiments.flow2d.config import Flow2dConfig, GridConfig, KindOfFlow
from flow_apps.experiments.flow2d.maps import GridMaps, grid_points, told
from flow_apps.experiments.flow2d.model import build_flow
from flow_apps.figures.maps import draw_maps
from flow_core import Flow, StandardNormal, initialize
from flow_core.bijection import Bijection
from flow_core.passes import Pass
from torch import Tensor

Cli = Callable[..., Any]
PRESETS = {preset.name: preset for preset in EXPERIMENTS["flow2d"].presets}
KINDS: tuple[KindOfFlow, ...] = ("affine", "modified-affine", "residual", "monotone", "sandwich")


def quick(kind: KindOfFlow = "affine") -> Flow2dConfig:
    config = PRESETS[f"quick-{kind}"].config
    assert isinstance(config, Flow2dConfig)
    return replace(config, blocks=2, width=8, grid=GridConfig(extent=2.0, step=0.5))


def flow(kind: KindOfFlow) -> Flow:
    model = build_flow(quick(kind))
    if kind == "sandwich":
        initialize(model, torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
    return model


def test_a_block_of_couplings_has_the_published_parameters() -> None:
    """Without the slopes of the published swish, one of every activation."""
    model = build_flow(replace(PRESETS["affine-rings"].config, blocks=5))
    assert sum(p.numel() for p in model.parameters()) == 500_550 - 5 * 2 * 5


def test_presets_say_what_their_commands_say() -> None:
    published = [preset for preset in PRESETS.values() if preset.published]
    assert len(published) == 2 * 8
    for preset in published:
        words, config = preset.published.split(), preset.config
        assert words[1] == f"train_toy_{'affine' if config.kind == 'affine' else 'resflow'}.py"
        assert config.density == words[3]
        assert (config.blocks, config.width, config.depth) == (100, 128, 4)
        assert config.contraction.coeff == 0.7
        training = config.training
        assert (training.iterations, training.batch_size) == (50_000, 500)
        assert (training.optimizer.learning_rate, training.optimizer.weight_decay) == (1e-3, 0.0)
        assert (config.grid.extent, config.grid.step) == (8.0, 0.05)
        assert len(grid_points(config.grid)) == 320**2


def test_points_of_the_grid_come_row_by_row_from_below() -> None:
    points = grid_points(GridConfig(extent=1.0, step=0.5))
    assert points.shape == (16, 2)
    assert points[:5].tolist() == [[-1, -1], [-0.5, -1], [0, -1], [0.5, -1], [-1, -0.5]]


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_flows_that_invert_are_small_errors(kind: KindOfFlow) -> None:
    maps = GridMaps(quick(kind), flow(kind)).measure()
    assert all(values.shape == (64,) for values in maps.values())
    assert float(maps["input_error"].max()) < 1e-4
    assert float(maps["output_error"].max()) < 1e-4
    assert float(maps["log_det_error"].max()) < 1e-4
    assert bool((maps["condition"] >= 1).all())
    assert bool((maps["density"] > 0).all())


class Doubling(Bijection):
    """2x where the first value is positive, with a wrong log-determinant; NaN elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        y = torch.where(x[:, :1] > 0, 2 * x, torch.nan)
        return y, how.log_det(x, lambda: x.new_full((len(x),), math.log(2.0)))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return y / 2 + 0.5, how.log_det(y, lambda: y.new_full((len(y),), -math.log(2.0)))


def test_maps_tell_what_is_wrong_and_where_nothing_is_finite() -> None:
    maps = GridMaps(quick(), Flow(StandardNormal((2,)), Doubling())).measure()
    positive = grid_points(quick().grid)[:, 0] > 0
    error = maps["input_error"]
    assert torch.allclose(error[positive], torch.full((24,), math.hypot(0.5, 0.5)).double())
    assert bool(error[~positive].isnan().all())
    assert torch.allclose(maps["log_det_error"][positive], torch.tensor(math.log(2.0)).double())
    figures = told(error)
    assert (figures["nan"], figures["inf"]) == (40.0, 0.0)
    assert figures["mean"] == pytest.approx(math.hypot(0.5, 0.5))


def test_maps_that_are_not_finite_are_drawn(tmp_path: Path) -> None:
    maps = {"condition": torch.tensor([[1.0, math.inf], [math.nan, 0.0]]).double()}
    draw_maps(maps, 1.0, tmp_path / "maps.png")
    assert (tmp_path / "maps.png").exists()


def test_a_run_draws_its_maps_and_keeps_their_numbers(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--set", "grid.step=2", "--set", "test_size=50", "--set", "blocks=1")
    result = cli("flow2d", *options, "--iterations", 2, "--batch-size", 20, "--out", run)
    assert result.exit_code == 0, result.output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["grid"]["condition"]["median"] >= 1
    assert summary["grid"]["input_error"]["nan"] == 0
    assert np.load(run / "figures" / "map_condition.npy").shape == (8, 8)
    assert (run / "figures" / "maps_000002.png").exists()


def test_a_grid_has_a_size() -> None:
    with pytest.raises(ConfigError, match="step: expected 1 to 10000000 points in the square"):
        GridConfig(step=1e-4)
    with pytest.raises(ConfigError, match="extent: expected a positive number, got 0"):
        GridConfig(extent=0.0)
