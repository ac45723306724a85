"""A trained model from Python and samples from the command line, with the data moved away."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_apps
import numpy as np
import pytest
import torch
from flow_apps.errors import AppError, CheckpointError, ConfigError
from flow_apps.loading import load_run
from flow_apps.parts.image_sets import images_as_read
from flow_apps.training import load_checkpoint, save_checkpoint
from flow_core import Dequantized, Flow

Cli = Callable[..., Any]

SMALL: dict[str, tuple[object, ...]] = {
    "toy2d": (
        "2spirals-monotone",
        "--set",
        "blocks=2",
        "--set",
        "growth=4",
        "--set",
        "compile=false",
    ),
    "fit1d": ("--set", "growth=4", "--set", "depth=1"),
    "image": (
        *("--set", "data=npz", "--set", "held_out=2", "--set", "scales=[1,1]", "--set", "growth=4"),
        *("--set", "dense_growth=4", "--set", "test_power_iterations=5", "--test-draws", 1),
        *("--set", "ema_decay=0.9", "--set", "estimator.test=residual-flow-geometric"),
    ),
    "glow": (
        *("--set", "data=npz", "--set", "held_out=2", "--set", "coupling_width=4"),
        *("--set", "num_blocks=1", "--set", "block_size=1", "--test-draws", 1),
        *("--set", "dequantizer.kind=variational", "--set", "dequantizer.width=4"),
    ),
}


def npz(folder: Path) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name, count in (("train", 12), ("val", 6)):
        data = draw.integers(0, 256, (count, 3 * 8 * 8), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", data=data, labels=np.ones(count, dtype=np.int64))
    return folder


@pytest.fixture(params=sorted(SMALL))
def run(request: pytest.FixtureRequest, cli: Cli, tmp_path: Path) -> Path:
    """A small finished run of every experiment whose data are gone."""
    name, data, out = str(request.param), npz(tmp_path / "data"), tmp_path / "run"
    root = ("--data-root", data) if name in {"image", "glow"} else ()
    options = ("--batch-size", 4, "--iterations", 3, "--test-size", 5, *SMALL[name], *root)
    result = cli(name, *options, "--set", "evaluate_every=1", "--out", out)
    assert result.exit_code == 0, result.output
    shutil.move(data, tmp_path / "moved")
    images_as_read.cache_clear()
    return out


def test_a_trained_flow_needs_no_data(run: Path, cli: Cli, tmp_path: Path) -> None:
    flow = flow_apps.load_flow(run)
    assert isinstance(flow, Flow | Dequantized)
    assert not flow.training
    drawn = flow.sample((3,))
    assert torch.isfinite(drawn).all()
    inner = flow.flow if isinstance(flow, Dequantized) else flow
    assert torch.isfinite(inner.log_prob(torch.full((2, *inner.event_shape), 0.5))).all()
    last = flow_apps.load_model(str(run), checkpoint="last")
    assert last.state_dict().keys() == flow.state_dict().keys()
    name = json.loads((run / "config.json").read_text())["experiment"]
    sampled = cli("sample", run, "--count", 2)
    assert sampled.exit_code == (1 if name == "fit1d" else 0), sampled.output
    tested = cli("evaluate", run)
    if name in {"toy2d", "fit1d"}:
        assert tested.exit_code == 0, tested.output
        return
    assert tested.exit_code == 1
    for word in (str(tmp_path / "data"), "read from there", "--data-root"):
        assert word in tested.stderr
    result = cli("evaluate", run, "--data-root", tmp_path / "moved")
    assert result.exit_code == 0, result.output
    summary, key = json.loads((run / "summary.json").read_text()), "test_bits_per_dim"
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert found[key] == summary[key]


def test_the_weights_that_were_tested_are_loaded(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--batch-size", 4, "--test-size", 5, *SMALL["toy2d"], "--set", "ema_decay=0.5")
    assert cli("toy2d", *options, "--iterations", 3, "--out", run).exit_code == 0
    state = load_checkpoint(run / "checkpoints" / "step_000000003.ckpt")
    model = flow_apps.load_model(run, checkpoint="last")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state["average"][f"module.{name}"])
        resting = name.endswith("concat")
        assert torch.equal(parameter, state["loss"][f"model.{name}"]) == resting


def test_what_is_no_flow_is_refused_by_name(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert cli("fit1d", *SMALL["fit1d"], "--iterations", 1, "--out", run).exit_code == 0
    monkeypatch.setattr("flow_apps.loading.Flow", Dequantized)
    with pytest.raises(ConfigError, match=r"whose model is a Flow and no flow; .*load_model"):
        flow_apps.load_flow(run)


@pytest.fixture
def toy(cli: Cli, tmp_path: Path) -> Path:
    """A finished toy."""
    run = tmp_path / "run"
    options = ("--batch-size", 4, "--test-size", 5, *SMALL["toy2d"])
    assert cli("toy2d", *options, "--iterations", 2, "--out", run).exit_code == 0
    return run


def test_weights_of_another_config_are_refused(cli: Cli, toy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    options = ("--batch-size", 4, "--test-size", 5, *SMALL["toy2d"][1:])
    rings = ("toy2d", "rings-monotone", *options, "--iterations", 2, "--out", other)
    assert cli(*rings).exit_code == 0
    shutil.copy(other / "checkpoints" / "step_000000002.ckpt", toy / "checkpoints")
    for command in (("evaluate", toy), ("sample", toy), ("toy2d", "--resume", "--iterations", 3)):
        arguments = (*command, "--out", toy) if "--resume" in command else command
        result = cli(*arguments)
        assert result.exit_code == 1
        assert "belongs to another config" in result.stderr


def test_what_changes_no_weights_leaves_them_loadable(cli: Cli, toy: Path) -> None:
    resumed = cli("toy2d", "--resume", "--iterations", 3, "--lr", 1e-4, "--out", toy)
    assert resumed.exit_code == 0, resumed.output
    assert load_run(toy).step == 3


def test_weights_that_are_no_numbers_name_their_checkpoint(cli: Cli, toy: Path) -> None:
    path = toy / "checkpoints" / "step_000000002.ckpt"
    state = load_checkpoint(path)
    name = next(name for name in state["loss"] if name.endswith("weight"))
    state["loss"][name].fill_(float("nan"))
    save_checkpoint(path, state)
    for command in (("evaluate", toy), ("sample", toy)):
        result = cli(*command)
        assert result.exit_code == 1
        assert f"{path}: " in result.stderr
        assert "is not finite" in result.stderr


@pytest.mark.parametrize(
    "state", [{"step": 2}, {}, {"step": "2", "best": 1.0, "loss": {}, "fingerprint": ""}]
)
def test_a_wrong_payload_in_a_valid_wrapper_is_clear(toy: Path, state: Any) -> None:
    path = toy / "checkpoints" / "step_000000002.ckpt"
    save_checkpoint(path, state)
    with pytest.raises(CheckpointError, match="holds no state of a training run"):
        flow_apps.load_flow(toy, checkpoint="last")


def test_a_run_that_is_not_there_is_one_kind_of_error(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="no such run"):
        flow_apps.load_flow(tmp_path / "nowhere")


def test_a_device_that_is_not_there_is_named(toy: Path) -> None:
    with pytest.raises(ConfigError, match="device: expected cpu or cuda, got 'abacus'"):
        flow_apps.load_flow(toy, device="abacus")
