"""The regression2d experiment: published sizes and settings, and what its figures are of."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.experiments import EXPERIMENTS, find_preset
from flow_apps.experiments.regression2d.build import build_parts
from flow_apps.experiments.regression2d.config import Regression2dConfig
from flow_apps.experiments.regression2d.data import drawn
from flow_apps.experiments.regression2d.model import build_flow
from flow_apps.experiments.regression2d.tests import ends
from flow_apps.training import Ranks, Workers
from flow_core import jacobian
from flow_data import WHOLE

Cli = Callable[..., Any]
PRESETS = {preset.name: preset for preset in EXPERIMENTS["regression2d"].presets}
QUICK = ("projection-quick-nf-1e-3", "--batch-size", 100, "--set", "steps=2", "--set", "points=100")


def config(**changes: Any) -> Regression2dConfig:
    training = find_preset("projection-quick")[1].config.training
    defaults: dict[str, Any] = {"training": training, "points": 1000}
    return Regression2dConfig(**(defaults | changes))


def test_the_published_flow_has_its_number_of_parameters() -> None:
    model = build_flow(find_preset("projection")[1].config)
    assert sum(p.numel() for p in model.parameters()) == 3744


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.published])
def test_presets_say_what_their_commands_say(name: str) -> None:
    preset = PRESETS[name]
    flags = dict(re.findall(r"--(\w+)=(\S+)", preset.published))
    assert preset.config.regularizers.density == float(flags.get("nf_coeff", 0))
    assert preset.config.training.iterations == 40_000
    assert preset.config.training.optimizer.learning_rate == 1e-4
    assert preset.config.points == preset.config.training.batch_size == 10_000


def test_targets_are_projections() -> None:
    x, y, *_ = drawn(config(), "train", 5)
    assert y is not None
    assert torch.equal(y[:, 1], x[:, 1])
    assert 0 < float(y[:, 0].abs().max()) < 1e-11
    assert not torch.equal(drawn(config(), "test", 5).x, x)


def test_a_step_sees_every_point_once() -> None:
    parts = build_parts(config(), build_flow(config()), frozenset())
    seen = parts.data.batch(3, WHOLE).x
    points = drawn(config(), "train", 1000).x
    assert torch.equal(seen.sort(0).values, points.sort(0).values)


def test_singular_values_are_those_where_round_trips_are_worst() -> None:
    model = build_flow(config())
    parts = build_parts(config(), model, frozenset())
    workers = Workers(Ranks(0, 1, torch.device("cpu")), ("test",))
    with torch.no_grad():
        found = parts.tests.evaluate("stability", 1, workers)
        x = drawn(config(), "train", 1000).x
        back = model.bijection.inverse(model.bijection.transform(x))
        worst = (back - x).double().square().sum(1).argmax()
    exact = torch.linalg.svdvals(jacobian(model.double().bijection, x.double()))
    assert found["condition"] == pytest.approx(float(exact[worst, 0] / exact[worst, 1]))
    assert found["condition_max"] == pytest.approx(float((exact[:, 0] / exact[:, 1]).max()))
    assert found["condition_max"] >= found["condition"]


def test_jacobians_that_are_no_numbers_are_in_no_extreme() -> None:
    extremes = torch.tensor([[4.0, 2.0], [torch.nan, torch.nan], [9.0, 1.0]], dtype=torch.float64)
    assert ends(extremes) == {"condition_max": 9.0, "smallest_singular_value_min": 1.0}
    assert ends(extremes[1:2]) == {}


def test_the_density_of_the_data_keeps_the_condition_number() -> None:
    """In few steps, at a coefficient where it is seen."""

    def condition(density: float) -> float:
        """After 60 steps at a high learning rate."""
        training = replace(config().training, batch_size=200)
        penalties = RegularizersConfig(density=density)
        own = config(regularizers=penalties, steps=6, points=200, training=training)
        model = build_flow(own)
        parts = build_parts(own, model, frozenset())
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(1, 61):
            optimizer.zero_grad()
            torch.autograd.backward(parts.loss(parts.data.batch(step, WHOLE))[0])
            optimizer.step()
        with torch.no_grad():
            workers = Workers(Ranks(0, 1, torch.device("cpu")), ("test",))
            return parts.tests.evaluate("stability", 60, workers)["condition_max"]

    assert condition(1e-2) < condition(0.0) / 5


def test_a_run_logs_lists_and_draws_curves(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--set", "test_size=50", "--iterations", 4, "--set", "evaluate_every=2")
    result = cli("regression2d", *QUICK, *options, "--out", run)
    assert result.exit_code == 0, result.output
    lists = json.loads((run / "figures" / "stability.json").read_text())
    assert lists["step"] == [2, 4]
    assert all(len(values) == 2 for values in lists.values())
    assert lists["condition"][0] > 1
    assert (run / "figures" / "stability.png").exists()
    assert json.loads((run / "summary.json").read_text())["test_mse"] > 0
