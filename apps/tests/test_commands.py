import importlib
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_apps.presets import DEFAULTS, PRESETS
from flow_apps.training import RunFolder
from flow_data import ImageSet, ImageSplits
from flow_solvers import AdjointSolver, Gmres, default_adjoint
from torch import Tensor

Cli = Callable[..., Any]
Child = Callable[..., int]

TOY = (
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
    "compile_seconds",
    "parameters",
    "max_roundtrip_error",
    "lipschitz_bound",
    "standard_error",
}


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need not see all digits."""

    def few(digits: ImageSet) -> ImageSplits:
        parts = [digits.select(torch.arange(16 * k, 16 * k + 16)) for k in range(3)]
        return ImageSplits(*parts)

    monkeypatch.setattr("flow_apps.experiments.image_sets.digits_splits", few)


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = RunFolder.open(folder).checkpoints.newest()["objective"]
    return state


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("preset", ["2spirals-monotone", "rings-idensenet"])
def test_toy2d_trains_tests_and_samples(cli: Cli, tmp_path: Path, preset: str) -> None:
    run = tmp_path / "run"
    result = cli("toy2d", preset, *TOY, "--iterations", 4, "--log-every", 2, "--out", run)
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
    (run / "summary.json").unlink()
    unfinished = cli("sample", run, "--count", 3)
    assert unfinished.exit_code == 0
    assert "not finished: these are the weights of step 4 of 4" in unfinished.output


@pytest.mark.parametrize("preset", [p.name for p in PRESETS.values() if p.experiment == "fit1d"])
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


def killed(child: Child, arguments: tuple[object, ...], seconds: float) -> bool:
    """Run a command and kill it after a while; whether it was still running."""
    process = child(*arguments)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize(
    "kills", [4, pytest.param(20, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_killed_run_always_resumes(cli: Cli, in_child: Child, tmp_path: Path, kills: int) -> None:
    settings = ("--set", "evaluate_every=10", "--set", "checkpoint_seconds=0.001")
    options = (*TOY, *settings, "--iterations", 10 * kills)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    cli("toy2d", *TOY, "--iterations", 2, "--out", tmp_path / "warm")
    started = time.monotonic()
    assert cli("toy2d", *options, "--out", whole).exit_code == 0
    duration = time.monotonic() - started
    draw = random.Random(kills)
    moments = [draw.uniform(0, 1.5 / kills) for _ in range(kills)]
    start: tuple[object, ...] = ("toy2d", *options, "--out", broken)
    resume: tuple[object, ...] = ("toy2d", "--resume", "--out", broken)
    died = 0
    for moment in moments:
        exists = (broken / "config.json").exists()
        died += killed(in_child, resume if exists else start, moment * duration)
    assert died > kills // 2
    result = cli(*(resume if (broken / "config.json").exists() else start))
    assert result.exit_code == 0, result.output
    assert_same(weights(whole), weights(broken))
    assert summary(whole)["test_nats"] == summary(broken)["test_nats"]
    assert summary(whole)["test_nats_last20"] == summary(broken)["test_nats_last20"]


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
    assert "the first process could not create" in second
    assert "Traceback" not in first + second


def test_two_processes_reach_the_weights_of_one(cli: Cli, in_child: Child, tmp_path: Path) -> None:
    options = (*TOY, "--iterations", 10)
    assert cli("toy2d", *options, "--out", tmp_path / "one").exit_code == 0
    children = two_ranks(in_child, "toy2d", *options, "--out", tmp_path / "two")
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert summary(tmp_path / "two")["test_nats"] == pytest.approx(
        summary(tmp_path / "one")["test_nats"], abs=1e-4
    )


def test_every_preset_is_listed(cli: Cli) -> None:
    result = cli("presets")
    assert result.exit_code == 0
    for name in ("2spirals-monotone", "rings-idensenet", "a-residual", "mnist-monotone"):
        assert name in PRESETS
        assert name in result.output
    toys = [preset for preset in PRESETS.values() if preset.experiment == "toy2d"]
    assert len(toys) == 16
    assert set(DEFAULTS.values()) <= PRESETS.keys()
