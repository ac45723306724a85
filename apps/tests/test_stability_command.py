"""`stability.py` measures any run whose model has an inverse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow_apps.config import apply_overrides
from flow_apps.experiments import EXPERIMENTS, find_preset
from flow_apps.stability import MeasuresInverse

Cli = Callable[..., Any]
SMALL = ("--set", "steps=1", "--set", "points=20", "--set", "test_size=20", "--batch-size", 20)


def test_a_run_is_measured_beside_another(cli: Cli, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("one", "other")]
    for run in runs:
        options = ("--iterations", 2, "--set", "evaluate_every=1", "--out", run)
        assert cli("regression2d", *SMALL, *options).exit_code == 0
    result = cli("stability", runs[0], "--samples", 5, "--jacobians", 2, "--beside", runs[1])
    assert result.exit_code == 0, result.output
    folder = runs[0] / "stability"
    report = json.loads((folder / "report.json").read_text())
    assert (report["checkpoint"], report["step"]) == ("last", 2)
    assert (report["samples"], report["dimension"]) == (5, 2)
    assert len(report["singular_values"]["transform"]) == 2
    assert (folder / "report.txt").read_text() in result.output
    assert (folder / "report.png").exists()
    assert (folder / "course.png").exists()
    refused = cli("stability", runs[0], "--samples", 0)
    assert refused.exit_code == 1
    assert "expected at least one sample" in refused.output


def test_every_experiment_with_an_invertible_model_can_be_measured() -> None:
    """Classifiers whose features are a flow's are measured as `image` and `inn-classify`."""
    found = {name for name in EXPERIMENTS if name != "classify"}
    for name in sorted(found):
        experiment, preset = find_preset(name)
        builders = experiment.load()
        of_images = {"images.data": "digits"} if hasattr(preset.config, "images") else {}
        config = builders.resolve(apply_overrides(preset.config, of_images))
        parts = builders.parts(config, builders.model(config), frozenset())
        assert isinstance(parts.tests, MeasuresInverse), name


@pytest.mark.usefixtures("few_digits")
def test_a_hybrid_can_be_measured() -> None:
    config = apply_overrides(find_preset("image")[1].config, {"task": "hybrid", "dense_blocks": 0})
    builders = find_preset("image")[0].load()
    parts = builders.parts(config, builders.model(config), frozenset())
    assert isinstance(parts.tests, MeasuresInverse)


@pytest.mark.usefixtures("few_digits")
def test_a_run_without_an_inverse_is_refused(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--set", "growth=4", "--set", "depth=1", "--set", "heads.channels=4")
    short = ("--set", "test_power_iterations=5", "--iterations", 1, "--batch-size", 8)
    assert cli("classify", *options, *short, "--out", run).exit_code == 0
    result = cli("stability", run)
    assert result.exit_code == 1
    assert "whose model has no inverse" in result.output
