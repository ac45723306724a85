"""The scripts that draw figures of the papers: their numbers, and that they draw."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.cli import app
from flow_core.lipschitz import LipSwish
from flow_kernels import pila_slope
from PIL import Image
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import activations, pictures

ROOT = Path(__file__).resolve().parents[1]


def test_extrema_are_those_of_closed_forms() -> None:
    extrema = activations.tables(1e-3)["Extrema"]
    found = {str(row["extremum"]): float(row["value"]) for row in extrema}
    slowest, fastest = 1 / 1.06, math.sqrt(1 + 361 * math.exp(-8)) / 1.06
    assert found["CPila, smallest speed"] == pytest.approx(slowest, abs=1e-6)
    assert found["CPila, largest speed"] == pytest.approx(fastest, abs=1e-6)
    assert found["CLipSwish, smallest speed"] == pytest.approx(math.sqrt(0.5) / 1.1044, abs=1e-6)
    assert found["CLipSwish, largest speed"] == pytest.approx(0.9999652, abs=1e-6)
    assert found["Pila, smallest slope"] == pytest.approx(-19 * math.exp(-4), abs=1e-6)


def test_speed_is_that_of_autograd() -> None:
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    for activation in activations.CURVES.values():
        a = x.clone().requires_grad_()
        value = activation.value(a[:, None], 1)
        slopes = [torch.autograd.grad(v.sum(), a, retain_graph=True)[0] for v in value.unbind(1)]
        torch.testing.assert_close(activations.speed(activation, x), torch.hypot(*slopes))


def test_a_number_that_is_not_the_expected_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.linspace(-8, 8, 16001, dtype=torch.float64)
    right = activations.Extremum("slope", pila_slope, False, "-0.348")
    assert activations.row(right, x)["value"] == "-0.3479971"
    with pytest.raises(ValueError, match=r"slope: expected -0\.347, got -0\.34799"):
        activations.row(right._replace(expected="-0.347"), x)
    slow = LipSwish().double()
    slow.lipschitz = 0.99
    monkeypatch.setitem(activations.CURVES, "slow", slow)
    with pytest.raises(ValueError, match=r"slow: speed 0\.9998.* is above 0\.99"):
        activations.constants(x)


def test_the_figure_of_activations_is_small(tmp_path: Path) -> None:
    activations.draw(tmp_path / "figure.png")
    assert 10_000 < (tmp_path / "figure.png").stat().st_size < 100_000
    assert (ROOT / "docs" / "activations.png").stat().st_size < 100_000


def test_runs_are_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = (
        *("--iterations", "1", "--batch-size", "8", "--test-size", "8", "--test-draws", "1"),
        *("--set", "validation_size=8", "--set", "block=coupling"),
        *("--set", "width=4", "--set", "dense_blocks=0"),
    )
    runs = [tmp_path / "one", tmp_path / "two"]
    for seed, run in enumerate(runs):
        arguments = ["image", *small, "--seed", str(seed), "--out", str(run)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    picture, rows = tmp_path / "runs.png", tmp_path / "rows.json"
    options = ("--quick", "--figure", str(picture), "--out", str(rows))
    monkeypatch.setattr(sys, "argv", ["pictures.py", *map(str, runs), *options])
    pictures.main()
    width, height = Image.open(picture).size
    assert width > 3 * height
    told: list[dict[str, Any]] = json.loads(rows.read_text())["tables"]["runs"]
    assert [row["run"] for row in told] == ["one", "two"]
    assert all(row["error"] < 1e-4 and row["bits/dim"] > 1 for row in told)
    assert not (runs[0] / "samples").exists()
