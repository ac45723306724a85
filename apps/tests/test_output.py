"""What a run shows: lines in a file, phases by name, and no more than that."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.training import Display
from flow_apps.training.progress import Rhythm
from torch import Tensor

Cli = Callable[..., Any]

TRAIN = Path(__file__).parents[1] / "train.py"
TOY = (
    "2spirals-monotone",
    *("--batch-size", "20", "--set", "blocks=1", "--set", "growth=4", "--test-size", "50"),
    *("--set", "compile=false", "--iterations", "12", "--log-every", "1"),
)


def test_a_file_gets_the_folder_first_then_lines(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    with log.open("w") as file:
        command = [sys.executable, str(TRAIN), "toy2d", *TOY, "--out", str(run)]
        subprocess.run(command, stdout=file, stderr=file, check=True)
    lines = log.read_text().splitlines()
    assert lines[:3] == [
        "toy2d 2spirals-monotone: importing torch",
        "loading",
        f"run folder: {run}",
    ]
    phases = [
        "initialising",
        "taking the first step",
        "training from step 1",
        "evaluating",
        "testing the final weights",
        f"finished after 12 steps; results in {run / 'summary.json'}",
    ]
    starts = [next(i for i, line in enumerate(lines) if line.startswith(p)) for p in phases]
    assert starts == sorted(starts)
    step = r"step 12/12  loss \d+\.\d{4}  \d+\.\d (steps/s|s/step)  0:00:00 left"
    assert sum(bool(re.fullmatch(step, line)) for line in lines) == 1
    assert not [line for line in lines if "arn" in line and "learn" not in line]
    assert "\x1b" not in log.read_text()


def test_a_terminal_gets_bars(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, str(TRAIN), "toy2d", *TOY, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(command, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                shown += os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
        assert process.wait() == 0
    os.close(leader)
    text = shown.decode()
    for words in ("loading", "run folder", "training", "12/12", "steps/s", "testing the final"):
        assert words in text, words


def test_lines_come_soon_at_first_and_then_at_most_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("flow_apps.training.progress.time.monotonic", lambda: now[0])
    rhythm, shown = Rhythm(), list[float]()
    for second in range(3600):
        now[0] = float(second)
        if rhythm.due():
            shown.append(now[0])
    pauses = [b - a for a, b in pairwise(shown)]
    assert shown[:2] == [0.0, 5.0]
    assert pauses == sorted(pauses)
    assert max(pauses) == 60.0


def test_a_process_that_is_not_first_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(visible=False)
    display.say("nothing")
    with display.phase("nothing"), display.jobs("nothing") as advance:
        advance("test", 1, 2)
    with display.steps(3, 0) as step:
        step.step(3, "nothing")
        step.job("nothing", 1, 2)
    assert capsys.readouterr() == ("", "")


DIGITS = (
    *("--set", "data=digits", "--batch-size", 8, "--set", "block_size=1", "--set", "num_blocks=1"),
    *("--set", "coupling_width=4", "--test-size", 4, "--test-draws", 1, "--set", "timing=false"),
    *("--iterations", 1),
)


def test_samples_out_of_range_name_the_layer(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("glow", *DIGITS, "--set", "activation=selu", "--out", run).exit_code == 0
    result = cli("sample", run, "--count", 16)
    assert result.exit_code == 0
    line = result.stderr.splitlines()[-1]
    assert re.fullmatch(r"\d+ samples are not finite: .*layers.*: \d+ out of its range", line), line


def test_samples_that_overflow_name_the_layer(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert cli("glow", *DIGITS, "--out", run).exit_code == 0
    rsample = torch.randn

    def huge(*sizes: Any, **options: Any) -> Tensor:
        return rsample(*sizes, **options) * 1e38

    monkeypatch.setattr("flow_core.base.torch.randn", huge)
    result = cli("sample", run, "--count", 16)
    assert result.exit_code == 0
    line = result.stderr.splitlines()[-1]
    assert re.search(r"samples are not finite: .*\d+ overflowed", line), line


def test_good_samples_give_no_reason(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("glow", *DIGITS, "--out", run).exit_code == 0
    result = cli("sample", run, "--count", 3)
    assert result.exit_code == 0
    assert "not finite" not in result.output
