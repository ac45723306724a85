"""Runs that are extended, told something new, killed, locked, or never began."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.config import TrainingConfig
from flow_apps.errors import RunFolderError
from flow_apps.experiments import EXPERIMENTS
from flow_apps.identity import fingerprint
from flow_apps.training import RunFolder, load_checkpoint, save_checkpoint
from flow_apps.training.compilation import private_cache
from flow_apps.training.interruption import stop_on_signals
from flow_apps.training.lock import LOCK_NAME, locked
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

Cli = Callable[..., Any]
Child = Callable[..., int]

TOY = (
    "2spirals-monotone",
    *("--batch-size", 20, "--set", "blocks=1", "--set", "growth=4", "--test-size", 50),
    *("--set", "compile=false"),
)


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics without times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "seconds_per_step"} for x in lines]


def state(path: Path) -> dict[str, Any]:
    found = load_checkpoint(path)
    del found["clock"]
    return found


def assert_equal(first: object, second: object) -> None:
    """Equal to the last bit, inside any containers."""
    if isinstance(first, Tensor):
        assert isinstance(second, Tensor)
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert isinstance(second, dict)
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_equal(value, second[key])
    elif isinstance(first, list | tuple):
        assert isinstance(second, list | tuple)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def assert_same_run(first: Path, second: Path) -> None:
    """Weights, optimizer, best weights, metrics and results."""
    for name in ("newest", "best"):
        paths = [RunFolder.open(folder).checkpoints for folder in (first, second)]
        files = [p.best if name == "best" else p.newest() for p in paths]
        assert_equal(state(files[0]), state(files[1]))
    assert rows(first) == rows(second)
    times = {"seconds_per_step", "cpu_seconds_per_step", "first_steps_seconds"}
    results = [{k: v for k, v in summary(f).items() if k not in times} for f in (first, second)]
    assert results[0] == results[1]


@pytest.mark.parametrize("ends", [(7,), (10,), (4, 9, 15)])
def test_an_extended_run_is_one_that_was_never_shorter(
    cli: Cli, tmp_path: Path, ends: tuple[int, ...]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = (*TOY, "--set", "evaluate_every=5", "--log-every", 1)
    assert cli("toy2d", *options, "--iterations", 20, "--out", whole).exit_code == 0
    assert cli("toy2d", *options, "--iterations", ends[0], "--out", parts).exit_code == 0
    assert "best_test_nats" in summary(parts)
    for end in (*ends[1:], 20):
        resumed = cli("toy2d", "--resume", "--iterations", end, "--out", parts)
        assert resumed.exit_code == 0, resumed.output
    assert_same_run(whole, parts)


def test_the_last_evaluation_of_a_run_counts_where_it_is_the_only_one(
    cli: Cli, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert cli("toy2d", *TOY, "--iterations", 3, "--out", run).exit_code == 0
    found = summary(run)
    (only,) = [row["nats"] for row in rows(run) if row["split"] == "test"]
    assert found["test_nats_last20"] == only
    assert found["best_step"] == 3


def test_a_resumed_run_is_told_a_lower_rate_and_says_from_when_on(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (*TOY, "--log-every", 1, "--iterations", 2, "--out", run)
    assert cli("toy2d", *options).exit_code == 0
    again = ("--lr", 1e-4, "--set", "gradient_clip=1", "--iterations", 4)
    resumed = cli("toy2d", "--resume", *again, "--out", run)
    assert resumed.exit_code == 0, resumed.output
    trained = [row for row in rows(run) if row["split"] == "train"]
    assert [row["learning_rate"] for row in trained] == [1e-3, 1e-3, 1e-4, 1e-4]
    told = json.loads((run / "config.json").read_text())
    (change,) = told["changes"]
    assert change["after_step"] == 2
    assert change["changed"]["training.optimizer.learning_rate"] == [1e-3, 1e-4]
    assert change["changed"]["training.gradient_clip"] == [None, 1.0]
    assert told["config"]["training"]["optimizer"]["learning_rate"] == 1e-4
    assert cli("toy2d", "--resume", "--iterations", 5, "--out", run).exit_code == 0
    told = json.loads((run / "config.json").read_text())
    assert [entry["after_step"] for entry in told["changes"]] == [2, 4]


def test_the_advice_after_divergence_works(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("--set", "checkpoint_seconds=1e-6", "--iterations", 4)
    assert cli("toy2d", *TOY, *settings, "--iterations", 2, "--out", run).exit_code == 0
    failed = cli("toy2d", "--resume", "--iterations", 6, "--lr", 1e30, "--out", run)
    assert failed.exit_code == 1
    assert "--resume and a lower --lr" in failed.stderr
    mended = cli("toy2d", "--resume", "--iterations", 6, "--lr", 1e-3, "--out", run)
    assert mended.exit_code == 0, mended.output
    assert summary(run)["steps"] == 6


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (("--seed", 1), "training.seed"),
        (("--batch-size", 10), "training.batch_size"),
        (("--set", "growth=8"), "growth"),
        (("--set", "density=rings"), "density"),
        (("--set", "ema_decay=0.9"), "training.ema_decay"),
    ],
)
def test_what_would_make_another_run_is_refused(
    cli: Cli, tmp_path: Path, changes: tuple[object, ...], key: str
) -> None:
    run = tmp_path / "run"
    assert cli("toy2d", *TOY, "--iterations", 2, "--out", run).exit_code == 0
    before = (run / "config.json").read_bytes()
    refused = cli("toy2d", "--resume", "--iterations", 3, *changes, "--out", run)
    assert refused.exit_code == 1
    assert f"error: {key} is" in refused.stderr
    assert (run / "config.json").read_bytes() == before


def test_a_finished_run_does_not_end_earlier(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("toy2d", *TOY, "--iterations", 3, "--out", run).exit_code == 0
    shorter = cli("toy2d", "--resume", "--iterations", 2, "--out", run)
    assert shorter.exit_code == 1
    assert "3 steps are done already, the run cannot end at 2" in shorter.stderr
    assert (run / "summary.json").exists()


def test_a_run_that_was_stopped_in_its_last_test_makes_it_up(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("toy2d", *TOY, "--iterations", 3, "--out", run).exit_code == 0
    expected, lines = summary(run), rows(run)
    (run / "summary.json").unlink()
    told = cli("evaluate", run)
    assert "only its final test is missing; --resume makes it" in told.stderr
    assert cli("toy2d", "--resume", "--out", run).exit_code == 0
    assert summary(run)["test_nats"] == expected["test_nats"]
    assert summary(run)["best_test_nats"] == expected["best_test_nats"]
    assert rows(run) == lines


@pytest.mark.parametrize("bad", [("--batch-size", 10**13), ("--lr", 1e30)])
def test_a_failed_start_is_in_nobodys_way(
    cli: Cli, tmp_path: Path, bad: tuple[object, ...]
) -> None:
    run = tmp_path / "run"
    failed = cli("toy2d", *TOY, *bad, "--iterations", 3, "--out", run)
    assert failed.exit_code == 1
    mended = cli("toy2d", *TOY, "--iterations", 3, "--out", run)
    assert mended.exit_code == 0, mended.output
    assert {row["step"] for row in rows(run) if row["split"] != "train"} == {3}
    assert [entry.name for entry in run.iterdir() if entry.name == LOCK_NAME] == []


def test_a_start_does_not_clear_what_others_put_there(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cli("toy2d", *TOY, "--lr", 1e30, "--iterations", 3, "--out", run)
    (run / "notes.txt").write_text("mine")
    refused = cli("toy2d", *TOY, "--iterations", 3, "--out", run)
    assert refused.exit_code == 1
    assert "exists already and is not overwritten" in refused.stderr
    assert (run / "notes.txt").read_text() == "mine"


def test_a_link_to_nothing_is_named(cli: Cli, tmp_path: Path) -> None:
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "gone")
    refused = cli("toy2d", *TOY, "--iterations", 3, "--out", link)
    assert refused.exit_code == 1
    assert f"{link} is a link to nothing" in refused.stderr


_HOLDER = """
import sys, time
from pathlib import Path
from flow_apps.training.compilation import private_cache
from flow_apps.training.interruption import stop_on_signals
from flow_apps.training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    """A process that holds the lock of a folder."""
    command = [sys.executable, "-c", _HOLDER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_the_first_is_named(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("toy2d", *TOY, "--iterations", 2, "--out", run).exit_code == 0
    with holder(run) as process:
        for options in (("--resume", "--iterations", 3), ()):
            refused = cli("toy2d", *(options or (*TOY, "--iterations", 2)), "--out", run)
            assert refused.exit_code == 1
            assert f"in use by another process (host {os.uname().nodename}" in refused.stderr
            assert f"pid {process.pid})" in refused.stderr
        process.kill()
    # The file is still there, and means nothing.
    assert (run / LOCK_NAME).exists()
    assert cli("toy2d", "--resume", "--iterations", 3, "--out", run).exit_code == 0
    assert not (run / LOCK_NAME).exists()


def test_a_lock_is_had_once_in_a_process_too(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunFolderError, match="in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()
    assert not (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_dropped_connection_saves_and_stops(
    cli: Cli, in_child: Child, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    child = in_child("toy2d", *TOY, "--log-every", 1, "--iterations", 100_000, "--out", run)
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert max(RunFolder.open(run).checkpoints.steps()) >= 1
    assert "go on with --resume" in (tmp_path / f"child-{child}.txt").read_text()


def killed(child: Child, arguments: tuple[object, ...], seconds: float) -> None:
    process = child(*arguments)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


SLOW, COMPILED = pytest.mark.slow, pytest.mark.compile


@pytest.mark.parametrize(
    ("kills", "compiled"),
    [
        (4, "false"),
        pytest.param(3, "true", marks=COMPILED),
        pytest.param(20, "false", marks=SLOW),
        pytest.param(20, "true", marks=[SLOW, COMPILED]),
    ],
)
def test_a_run_that_is_killed_again_and_again_is_the_same_run(
    cli: Cli, in_child: Child, tmp_path: Path, kills: int, compiled: str
) -> None:
    settings = ("--set", "evaluate_every=7", "--set", "checkpoint_seconds=0.001", "--log-every", 3)
    code = ("--set", f"compile={compiled}")
    options = (*TOY, *settings, *code, "--iterations", 10 * kills + 3)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    started = time.monotonic()
    assert cli("toy2d", *options, "--out", whole).exit_code == 0
    duration = time.monotonic() - started
    draw = torch.Generator().manual_seed(kills)
    moments = (duration * 1.5 / kills * torch.rand(kills, generator=draw)).tolist()
    start: tuple[object, ...] = ("toy2d", *options, "--out", broken)
    resume: tuple[object, ...] = ("toy2d", "--resume", "--out", broken)
    for moment in moments:
        killed(in_child, resume if (broken / "config.json").exists() else start, moment)
    result = cli(*(resume if (broken / "config.json").exists() else start))
    assert result.exit_code == 0, result.output
    assert_same_run(whole, broken)


IMAGES = (
    *("digits-monotone", "--batch-size", 8, "--set", "scales=[1,1]", "--set", "growth=4"),
    *("--set", "depth=1", "--set", "dense_blocks=1", "--set", "dense_growth=4", "--test-size", 8),
    *("--test-draws", 1, "--set", "validation_size=8", "--set", "test_power_iterations=5"),
    *("--set", "milestones=[]", "--set", "evaluate_every=2", "--log-every", 1),
)


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("policy", ["stop", "restore"])
@pytest.mark.parametrize("compiled", ["false", pytest.param("true", marks=COMPILED)])
def test_a_run_of_images_that_is_stopped_is_the_same_run(
    cli: Cli, tmp_path: Path, compiled: str, policy: str
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = (*IMAGES, "--set", f"compile={compiled}", "--set", f"on_failure={policy}")
    saved = ("--set", "checkpoint_seconds=0.001")
    assert cli("image", *options, *saved, "--iterations", 5, "--out", whole).exit_code == 0
    assert cli("image", *options, *saved, "--iterations", 4, "--out", parts).exit_code == 0
    # As if it had been killed in its fourth step: no summary, no checkpoint of it.
    (parts / "summary.json").unlink()
    RunFolder.open(parts).checkpoints.path(4).unlink()
    resumed = cli("image", "--resume", "--iterations", 5, "--out", parts)
    assert resumed.exit_code == 0, resumed.output
    assert_same_run(whole, parts)


def test_defaults_of_a_config_need_no_length() -> None:
    assert not TrainingConfig().optimizer.schedule.follows_length


def test_compiled_code_is_kept_apart_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TORCHINDUCTOR_CACHE_DIR"
    for common in (None, default_cache_dir()):
        with monkeypatch.context() as patch:
            if common is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, common)
            with private_cache(tmp_path, 0):
                place = Path(os.environ[name])
                assert place.parent == tmp_path
                place.mkdir()
                (place / "code").write_text("killed")
            assert not place.exists()
            assert os.environ.get(name) == common
    monkeypatch.delenv(name, raising=False)
    place.mkdir()  # what a killed run leaves
    (place / "old").write_text("")
    with private_cache(tmp_path, 0):
        assert not (place / "old").exists()
    monkeypatch.setenv(name, str(tmp_path / "chosen"))
    with private_cache(tmp_path, 0):
        assert os.environ[name] == str(tmp_path / "chosen")


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_start_that_was_killed_while_compiling_is_in_nobodys_way(
    cli: Cli, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert cli("toy2d", *TOY, "--lr", 1e30, "--iterations", 3, "--out", run).exit_code == 1
    (run / ".compiled-0").mkdir()
    (run / ".compiled-0" / "code").write_text("half")
    assert cli("toy2d", *TOY, "--iterations", 3, "--out", run).exit_code == 0
    assert not (run / ".compiled-0").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("average", KeyError),
        ("optimizers", [{}]),
        ("optimizers", []),
        ("clock", {}),
        ("step", -3),
    ],
)
def test_a_damaged_state_names_its_file(cli: Cli, tmp_path: Path, key: str, value: object) -> None:
    run = tmp_path / "run"
    assert cli("toy2d", *TOY, "--iterations", 2, "--out", run).exit_code == 0
    path = RunFolder.open(run).checkpoints.newest()
    content = load_checkpoint(path)
    if value is KeyError:
        del content[key]
    else:
        content[key] = value
    save_checkpoint(path, content)
    result = cli("toy2d", "--resume", "--iterations", 3, "--out", run)
    assert result.exit_code == 1
    assert str(path) in result.stderr.splitlines()[-1]


def test_a_field_that_the_program_got_later_is_no_other_config(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("toy2d", *TOY, "--iterations", 2, "--out", run).exit_code == 0
    path = run / "config.json"
    described = json.loads(path.read_text())
    state = load_checkpoint(RunFolder.open(run).checkpoints.newest())
    del described["config"]["block"]  # as if it had not been there: its default was in use
    experiment = EXPERIMENTS["toy2d"]
    state["fingerprint"] = fingerprint(experiment, described["config"])
    save_checkpoint(RunFolder.open(run).checkpoints.newest(), state)
    path.write_text(json.dumps(described))
    assert cli("evaluate", run).exit_code == 0
    assert cli("toy2d", "--resume", "--iterations", 3, "--lr", 1e-4, "--out", run).exit_code == 0
    assert cli("evaluate", run).exit_code == 0


def test_a_file_and_no_name_are_no_folders(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused = cli("toy2d", *TOY, "--out", tmp_path / "file")
    assert "is a file and no folder" in refused.stderr
    assert "out: expected a new folder" in cli("toy2d", *TOY, "--out", "").stderr
