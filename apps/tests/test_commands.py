import importlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_apps.experiments import EXPERIMENTS, all_presets
from flow_apps.training import RunFolder, load_checkpoint
from flow_solvers import AdjointSolver, Gmres, default_adjoint
from torch import Tensor

Cli = Callable[..., Any]
Child = Callable[..., int]

TOY = (
    "2spirals-monotone",
    *("--batch-size", 20, "--set", "blocks=2", "--set", "growth=4", "--set", "test_size=50"),
    *("--set", "compile=false"),
)
FIT = ("--batch-size", 20, "--set", "growth=4", "--set", "depth=1", "--set", "test_size=50")
DIGITS = (
    *("--batch-size", 8, "--set", "scales=[1,1]", "--set", "growth=4", "--set", "depth=1"),
    *("--set", "dense_blocks=1", "--set", "dense_growth=4", "--set", "test_draws=1"),
    *("--set", "test_batch_size=400", "--set", "test_power_iterations=5"),
)
SUMMARY = {
    "steps",
    "seconds_per_step",
    "cpu_seconds_per_step",
    "first_steps_seconds",
    "parameters",
    "max_roundtrip_error",
    "lipschitz_bound",
    "standard_error",
}


pytestmark = pytest.mark.usefixtures("few_digits")


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def weights(folder: Path) -> dict[str, Tensor]:
    newest = RunFolder.open(folder).checkpoints.newest()
    state: dict[str, Tensor] = load_checkpoint(newest)["loss"]
    return state


def test_toy2d_trains_maps_that_are_lipschitz_by_construction(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ("--batch-size", 20, "--test-size", 50, "--set", "blocks=2", "--set", "compile=false")
    options = (*small, "--set", "width=4", "--iterations", 4, "--out", run)
    assert cli("toy2d", "moons-sandwich", *options).exit_code == 0
    found = summary(run)
    assert found["max_roundtrip_error"] < 1e-4
    bounds = found["lipschitz_bound"]
    assert list(bounds) == ["bijection.layers.1.g", "bijection.layers.3.g"]
    assert all(0 < bound < 0.99 for bound in bounds.values())
    for preset, field in (("moons-sandwich", "growth=4"), ("moons-monotone", "width=4")):
        refused = cli("toy2d", preset, *small, "--set", field, "--out", tmp_path / "none")
        assert refused.exit_code == 1
        assert "net=" in refused.output


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("preset", ["2spirals-monotone", "rings-idensenet"])
def test_toy2d_trains_tests_and_samples(cli: Cli, tmp_path: Path, preset: str) -> None:
    run = tmp_path / "run"
    result = cli("toy2d", preset, *TOY[1:], "--iterations", 4, "--log-every", 2, "--out", run)
    assert result.exit_code == 0, result.output
    found = summary(run)
    assert found.keys() >= SUMMARY | {"test_nats", "test_nats_last20"}
    assert found["max_roundtrip_error"] < 1e-4
    assert all(0 < bound < 1 for bound in found["lipschitz_bound"].values())
    assert len(found["lipschitz_bound"]) == 2
    assert (run / "figures" / "density_000004.png").stat().st_size > 1000
    assert (run / "figures" / "learning_curve.png").exists()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"step", "split", "nats", "gradient_norm", "seconds_per_step"} <= rows[0].keys()
    if preset.endswith("monotone"):
        assert rows[0]["solver"]["bijection.layers.1"]["evaluations"] >= 1

    result = cli("evaluate", run)
    assert result.exit_code == 0, result.output
    assert "round trip float64" in result.output
    evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert evaluation["test_nats"] == found["test_nats"]
    per_sample = np.load(run / "evaluation" / "log_likelihoods.npy")
    assert -per_sample.astype(np.float64).mean() == pytest.approx(found["test_nats"], rel=1e-12)

    arguments = ("sample", run, "--count", 10, "--temperature", 0.7)
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    (array,) = (run / "samples").glob("*.npy")
    assert np.load(array).shape == (10, 2)
    assert cli(*arguments).exit_code == 1
    limited = cli(*arguments, "--budget", 1)
    assert limited.exit_code == 0
    assert "missed their tolerance" in limited.output
    assert "not finished" not in limited.output
    assert limited.stdout.splitlines() == [
        str(run / "samples" / f"samples_last_n10_T0.7_budget1_seed0.{kind}")
        for kind in ("png", "npy")
    ]
    (run / "summary.json").unlink()
    untested = cli("sample", run, "--count", 3)
    assert untested.exit_code == 0
    assert "only its final test is missing" in untested.output
    description = json.loads((run / "config.json").read_text())
    description["config"]["training"]["iterations"] = 9
    (run / "config.json").write_text(json.dumps(description))
    unfinished = cli("sample", run, "--count", 4)
    assert unfinished.exit_code == 0
    assert "not finished: these are the weights of step 4 of 9" in unfinished.output


@pytest.mark.parametrize("preset", [p.name for p in EXPERIMENTS["fit1d"].presets])
def test_fit1d_trains_and_tests(cli: Cli, tmp_path: Path, preset: str) -> None:
    run = tmp_path / "run"
    result = cli("fit1d", preset, *FIT, "--iterations", 3, "--out", run)
    assert result.exit_code == 0, result.output
    found = summary(run)
    assert found.keys() >= SUMMARY | {"test_mse"}
    assert found["max_roundtrip_error"] < 1e-4
    assert (run / "figures" / "fit_000003.png").exists()
    assert cli("evaluate", run).exit_code == 0
    evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert evaluation["test_mse"] == found["test_mse"]
    assert np.load(run / "evaluation" / "squared_errors.npy").shape == (50,)
    refused = cli("sample", run)
    assert refused.exit_code == 1
    assert "nothing to sample" in refused.output


def test_image_trains_tests_and_samples(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = cli("image", *DIGITS, "--iterations", 2, "--out", run)
    assert result.exit_code == 0, result.output
    found = summary(run)
    assert found.keys() >= SUMMARY | {"test_bits_per_dim", "best_test_bits_per_dim"}
    assert found["max_roundtrip_error"] < 1e-4
    assert (run / "figures" / "samples_000002.png").exists()
    assert (run / "figures" / "reconstructions_000002.png").exists()
    assert cli("evaluate", run).exit_code == 0
    evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert evaluation["test_bits_per_dim"] == found["test_bits_per_dim"]
    assert cli("evaluate", run, "--checkpoint", "best").exit_code == 0
    evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert evaluation["test_bits_per_dim"] == pytest.approx(found["best_test_bits_per_dim"])
    assert cli("sample", run, "--count", 5).exit_code == 0
    (array,) = (run / "samples").glob("*.npy")
    assert np.load(array).shape == (5, 1, 8, 8)


@pytest.mark.parametrize(
    ("experiment", "options"),
    [("toy2d", TOY), ("fit1d", FIT), ("image", DIGITS)],
)
def test_halves_equal_the_whole_bit_for_bit(
    cli: Cli, tmp_path: Path, experiment: str, options: tuple[object, ...]
) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    options = (*options, "--set", "learn_concat_from=3", "--set", "milestones=[]")
    assert cli(experiment, *options, "--iterations", 4, "--out", whole).exit_code == 0
    assert cli(experiment, *options, "--iterations", 2, "--out", half).exit_code == 0
    resumed = cli(experiment, "--resume", "--iterations", 4, "--out", half)
    assert resumed.exit_code == 0, resumed.output
    assert_same(weights(whole), weights(half))


def test_concatenation_weights_wait_for_their_time(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (*TOY, "--set", "learn_concat_from=3", "--out", run)
    cli("toy2d", *options, "--iterations", 2)
    assert all(bool((v == 1).all()) for k, v in weights(run).items() if k.endswith("concat"))
    cli("toy2d", "--resume", "--iterations", 3, "--out", run)
    assert all(bool((v != 1).all()) for k, v in weights(run).items() if k.endswith("concat"))


def test_a_finished_run_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cli("toy2d", *TOY, "--iterations", 2, "--out", run)
    before = (run / "summary.json").stat().st_mtime_ns
    result = cli("toy2d", "--resume", "--out", run)
    assert result.exit_code == 0
    assert "finished already" in result.output
    assert (run / "summary.json").stat().st_mtime_ns == before


def two_ranks(in_child: Child, *arguments: object) -> list[int]:
    """Start a command line in two processes that train together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [
        in_child(
            *arguments,
            **{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]


def test_a_backward_pass_that_fails_on_one_process_ends_both(
    in_child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weak_on_second(dim: int) -> AdjointSolver:
        second = os.environ.get("RANK") == "1"
        return Gmres(restart=1, budget=2) if second else default_adjoint(dim)

    # By its path the module could not be told from the function of that name.
    module = importlib.import_module("flow_solvers.resolvent")
    monkeypatch.setattr(module, "default_adjoint", weak_on_second)
    children = two_ranks(in_child, "toy2d", *TOY, "--iterations", 10, "--out", tmp_path / "run")
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [1, 1]
    first, second = ((tmp_path / f"child-{child}.txt").read_text() for child in children)
    assert "error: step 1: another process failed" in first
    assert "sample i of process 1 is number 1 + 2·i of the batch" in second
    assert "step 1, backward pass: a solver failed in layer" in second
    assert "bijection.layers." in second


def test_a_folder_that_is_taken_ends_both_processes(in_child: Child, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    children = two_ranks(in_child, "toy2d", *TOY, "--iterations", 10, "--out", tmp_path / "run")
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [1, 1]
    first, second = ((tmp_path / f"child-{child}.txt").read_text() for child in children)
    assert "exists already and is not overwritten" in first
    assert "the first process could not use" in second
    assert "Traceback" not in first + second


def test_every_preset_is_listed_with_its_summary(cli: Cli) -> None:
    result = cli("presets")
    assert result.exit_code == 0
    known = {preset.name: preset for _, preset in all_presets()}
    for name in ("2spirals-monotone", "rings-idensenet", "a-residual", "mnist-monotone"):
        assert name in known
    words = [line.split() for line in result.output.splitlines()]
    for name, preset in known.items():
        assert [name, *preset.summary.split()] in words
    assert len(EXPERIMENTS["toy2d"].presets) == 48


def test_presets_run_where_none_is_named() -> None:
    defaults = {name: experiment.preset(None).name for name, experiment in EXPERIMENTS.items()}
    assert (
        defaults.items()
        >= {
            "fit1d": "d-monotone",
            "toy2d": "2spirals-sandwich",
            "image": "digits-monotone",
            "glow": "small-inverse-conv-mnist",
            "classify": "digits-classifier",
        }.items()
    )
