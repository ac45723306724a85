"""`attack.py` attacks runs and imported weights, and the models that are made for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.attack_table import rows_of, table_of
from flow_apps.experiments import EXPERIMENTS
from flow_apps.experiments.image.build import build_model
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.figures.attack import draw_attacks, draw_panels
from flow_core.dequantization import Dequantized
from flow_core.diagnostics import ProjectedAscent, attack_inverse
from flow_core.domain import Domain
from flow_core.lipschitz import update_lipschitz
from torch import Tensor, nn

Cli = Callable[..., Any]
PRESETS = {preset.name: preset for preset in EXPERIMENTS["image"].presets}
PLANE = ("--set", "blocks=1", "--set", "width=8", "--set", "depth=1", "--set", "grid.step=4")
QUICK = ("--samples", 6, "--steps", 3, "--seeds", 2)


def config_of(name: str) -> ImageConfig:
    config = PRESETS[name].config
    assert isinstance(config, ImageConfig)
    return config


def of_the_plane(cli: Cli, run: Path, kind: str) -> None:
    short = ("--iterations", 1, "--batch-size", 20, "--test-size", 20, "--out", run)
    result = cli("flow2d", f"quick-{kind}", *PLANE, *short)
    assert result.exit_code == 0, result.output


def test_runs_are_attacked_and_compared(cli: Cli, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("affine", "residual")]
    for run in runs:
        of_the_plane(cli, run, run.name)
    result = cli("attack", *runs, *QUICK, "--restarts", 2)
    assert result.exit_code == 0, result.output
    for run in runs:
        report = json.loads((run / "attack" / "report.json").read_text())
        assert (report["checkpoint"], report["step"]) == ("last", 1)
        assert (report["samples"], report["dimension"], len(report["course"])) == (6, 2, 4)
        assert set(report["course_by_seed"]) == {"0", "1"}
        assert report["settings"]["restarts"] == 2
        assert report["settings"]["limits"] is None
        assert report["bound"]["beyond"] == 0
        assert (run / "attack" / "curves.png").exists()
        assert not (run / "attack" / "panels.png").exists()
        assert (run / "attack" / "report.txt").read_text().strip() in result.output
    folder = runs[0] / "attack"
    table = (folder / "comparison.txt").read_text()
    assert table in result.output
    assert [line.split()[0] for line in table.splitlines()] == ["run", "affine", "residual"]
    assert set(json.loads((folder / "comparison.json").read_text())) == {"affine", "residual"}
    assert (folder / "comparison.png").exists()


@pytest.mark.usefixtures("few_digits")
def test_images_stay_images_and_are_shown(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = {"data": "digits", "augment": "none", "scales": [1, 1], "width": 4, "test_draws": 1}
    options = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    short = ("--iterations", 1, "--batch-size", 8, "--set", "test_power_iterations=5")
    trained = cli("image", "cifar10-attack-bounded", *options, *short, "--out", run)
    assert trained.exit_code == 0, trained.output
    result = cli("attack", run, *QUICK, "--unrolled", 2, "--nudge", "1e-3")
    assert result.exit_code == 0, result.output
    report = json.loads((run / "attack" / "report.json").read_text())
    assert report["settings"]["limits"] == [0.0, 1.0]
    assert report["request"]["unrolled"] == 2
    assert report["followed"][-1]["mean"] > 3 * report["course"][-1]["mean"]
    assert report["bound"]["bounds"]["largest"] < 1
    assert (run / "attack" / "panels.png").exists()
    refused = cli("attack", run, "--samples", 17)
    assert refused.exit_code == 1
    assert "samples: expected at most the 16 test points" in refused.output
    published = cli("attack", run, *QUICK, "--own-limits")
    assert published.exit_code == 0, published.output
    report = json.loads((run / "attack" / "report.json").read_text())
    assert report["settings"]["limits"] == "own"


def test_what_cannot_be_attacked_is_one_error(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "plane"
    of_the_plane(cli, run, "affine")
    for options, message in (
        (("--samples", 0), "samples: expected at least one"),
        (("--epsilon", -1), "epsilon: expected a finite number"),
        (("--seeds", 0), "seeds: expected different integers"),
        (("--unrolled", 0), "steps"),
        (("--points-of", tmp_path / "nowhere"), "no such run"),
    ):
        result = cli("attack", run, *QUICK, *options)
        assert result.exit_code == 1, result.output
        assert message in result.output
    assert not (run / "attack").exists()


@pytest.mark.usefixtures("few_digits")
def test_a_model_without_an_inverse_is_refused(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--set", "growth=4", "--set", "depth=1", "--set", "heads.channels=4")
    short = ("--set", "test_power_iterations=5", "--iterations", 1, "--batch-size", 8)
    assert cli("classify", *options, *short, "--out", run).exit_code == 0
    result = cli("attack", run)
    assert result.exit_code == 1
    assert "whose model has no inverse" in result.output


class Breaks(nn.Module):
    """Loses bright pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, y: Tensor) -> Tensor:
        return torch.where(y > 0.99, torch.nan, y * 1.01)


def test_what_breaks_is_in_pictures_and_tables(tmp_path: Path) -> None:
    x = 0.9 * torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    x[1] = 0.985
    ascent = ProjectedAscent(epsilon=0.02, steps=8, step_size=4e-3, limits=(0.0, 1.0))
    found = attack_inverse(Breaks(), x, ascent)
    draw_panels(found, tmp_path / "panels.png")
    draw_attacks({"breaks": found, "again": found}, tmp_path / "curves.png")
    assert (tmp_path / "panels.png").stat().st_size > 5000
    assert (tmp_path / "curves.png").stat().st_size > 5000
    row: Any = rows_of({"breaks": found})["breaks"]
    assert (row["nan"], row["inf"], row["bound"]) == (3, 0, None)
    assert row["first_broken"] == found.first_broken
    assert "-" in table_of({"breaks": found}).splitlines()[1].split()


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_twins_are_of_one_size(data: str) -> None:
    kinds = ("residual", "affine", "modified-affine", "monotone", "bounded")
    sizes = []
    for kind in kinds:
        with torch.device("meta"):
            model = build_model(config_of(f"{data}-attack-{kind}"))
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert max(sizes) < 1.02 * min(sizes)


def test_the_bounded_twin_has_a_condition_number_below_100_on_all_images() -> None:
    config = config_of("mnist-attack-bounded")
    assert config_of("cifar10-attack-bounded").contraction == config.contraction
    model = build_model(replace(config, width=8))
    assert isinstance(model, Dequantized)
    flow = model.flow
    for p in flow.parameters():
        nn.init.normal_(p)
    for _ in range(10):
        update_lipschitz(flow)
    bounds, _ = flow.bijection.bounds_on(Domain((1, 28, 28), 0.0, 1.0))
    assert bounds.transform * bounds.inverse < 100


def test_published_models_are_those_of_the_command() -> None:
    residual, affine, modified = (
        config_of(f"celeba64-attack-{kind}") for kind in ("residual", "affine", "modified-affine")
    )
    command = PRESETS["celeba64-attack-residual"].published
    assert "--nblocks 16-16-16-16" in command
    assert "--update-freq 5 --optimizer adamax" in PRESETS["celeba64-attack-affine"].published
    # An edit of the source.
    assert PRESETS["celeba64-attack-modified-affine"].published == ""
    for config in (residual, affine, modified):
        assert config.scales == (16,) * 4
        assert (config.images.side, config.images.n_bits, config.alpha) == (64, 5, 0.05)
        assert config.squeeze_first
        assert not config.factor_out
        assert config.dense_blocks == 4
        training = config.training
        assert training.batch_size == 64 * training.accumulate
        assert training.optimizer.schedule.warmup * training.accumulate == 1000
        assert training.iterations == 1000 * training.evaluate_every
    assert (residual.training.accumulate, affine.training.accumulate) == (1, 5)
    assert affine.training.optimizer.name == "adamax"
    assert replace(affine, coupling_scale="upper-half-of-channels") == modified


def test_options_of_couplings_are_refused_elsewhere(cli: Cli) -> None:
    result = cli("config", "mnist-attack-residual", "--set", "coupling_order=in-turns")
    assert result.exit_code == 1
    assert "coupling_order" in result.output
