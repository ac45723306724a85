"""Every bad input: one clear line, exit code 1, no traceback, nothing overwritten."""

import gzip
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.training.lock import locked
from flow_core.settings import Solve
from flow_data import sample_toy
from flow_solvers import SolverError
from torch import Tensor

Cli = Callable[..., Any]

TOY = (
    "2spirals-monotone",
    *("--batch-size", 20, "--set", "blocks=1", "--set", "growth=4", "--set", "test_size=50"),
    *("--set", "compile=false"),
)


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_one_error(result: Any, *words: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line]
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert line == lines[-1]
    assert "Traceback" not in result.output
    for word in words:
        assert word in line


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Path:
    """A small finished run."""
    folder = tmp_path / "run"
    assert cli("toy2d", *TOY, "--iterations", 2, "--out", folder).exit_code == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("toy2d", "2spiral-monotone"), ("2spirals-monotone",)),
        (("toy2d", "qqqqqqqq"), ("unknown preset", "known: 2spirals-sandwich")),
        (("image", "2spirals-monotone"), ("belongs to the command toy2d",)),
        (("toy2d", "--set", "bach_size=3"), ("bach_size", "batch_size")),
        (("toy2d", "--set", "batch_size"), ("key=value",)),
        (("toy2d", "--set", "coeff=1.0"), ("coeff", "between 0 and 1", "1.0")),
        (("toy2d", "--set", "coeff=-0.5"), ("coeff",)),
        (("toy2d", "--set", "concat_bound=1.5"), ("concat_bound",)),
        (("toy2d", "--set", "threads=0"), ("threads", "1 to 1024")),
        (("toy2d", "--set", "threads=100000"), ("threads", "1 to 1024")),
        (("toy2d", "--set", "learning_rate=nan"), ("learning_rate", 'finite number, got "nan"')),
        (("toy2d", "--set", 'options={"betas":[0.9,1e999]}'), ("options", "finite", "Infinity")),
        (("toy2d", "--set", 'options={"beta":1}'), ("options", "did you mean betas")),
        (("toy2d", "--set", "coeff=-.5"), ("coeff", "got -0.5")),
        (("toy2d", "--set", "rtol=-1e-6"), ("rtol", "between 0 and 1")),
        (("toy2d", "--batch-size", "-5"), ("batch_size", "positive", "-5")),
        (("toy2d", "--iterations", "0"), ("iterations", "positive")),
        (("toy2d", "--lr", "-1"), ("learning_rate", "positive")),
        (("toy2d", "--set", "blocks=-1"), ("blocks", "positive")),
        (("toy2d", "--set", "growth=3"), ("growth",)),
        (("toy2d", "--set", "density=ring"), ("did you mean rings",)),
        (("toy2d", "--set", "block=monoton"), ("did you mean monotone",)),
        (("toy2d", "--set", "activation=cpil"), ("cpil",)),
        (("toy2d", "--device", "abacus"), ("device",)),
        (("fit1d", "--set", "target=multistepfunc"), ("multiplestepfunc",)),
        (("fit1d", "--set", "layers=[]"), ("layers",)),
        (("fit1d", "--set", 'layers=["residul"]'), ("layers", "did you mean residual")),
        (("image", "--set", "scales=[1,1,1,1,1]"), ("cannot be halved",)),
        (("image", "--set", "alpha=0.7"), ("alpha",)),
        (("image", "mnist-monotone"), ("expected train-images",)),
        (("toy2d", "--set", "test_size=1"), ("test_size", "at least 2")),
        (("toy2d", "--set", 'trackers=["trackoi"]'), ("trackers", "did you mean trackio")),
        (("toy2d", "--set", "trackers=trackio"), ("trackio", "not installed")),
    ],
)
def test_a_bad_request_makes_no_folder(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_error(cli(*arguments), *words)
    assert snapshot(tmp_path) == {}


def idx(values: Tensor) -> bytes:
    """An IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + bytes(values.flatten().tolist())


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (idx(torch.zeros(3, 28, 28, dtype=torch.uint8))[:-1], "truncated"),
        (idx(torch.zeros(3, 14, 14, dtype=torch.uint8)), "shape"),
        (b"not an image at all", "begins with"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_data_are_refused(
    cli: Cli, tmp_path: Path, content: bytes, word: str, compressed: bool
) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    suffix = ".gz" if compressed else ""
    pack = gzip.compress if compressed else bytes
    (raw / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(content))
    labels = idx(torch.zeros(3, dtype=torch.uint8))
    (raw / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(labels))
    out = tmp_path / "run"
    result = cli("image", "mnist-monotone", "--data-root", tmp_path / "data", "--out", out)
    assert_one_error(result, word)
    assert not out.exists()


def test_nan_in_a_batch_names_step_and_samples(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def poisoned(*arguments: Any, **options: Any) -> Tensor:
        points = sample_toy(*arguments, **options)
        calls[0] += 1
        if calls[0] == 4:  # the first call is for initialisation
            points[7] = float("nan")
        return points

    monkeypatch.setattr("flow_apps.experiments.toy2d.data.sample_toy", poisoned)
    result = cli("toy2d", *TOY, "--iterations", 9, "--out", tmp_path / "run")
    assert_one_error(result, "step 3", "x of the batch is not finite", "samples [7]")


def test_an_existing_run_is_refused(cli: Cli, run: Path) -> None:
    before = snapshot(run)
    assert_one_error(cli("toy2d", *TOY, "--iterations", 2, "--out", run), "--resume")
    assert snapshot(run) == before


def test_a_run_that_goes_on_is_left_alone(cli: Cli, run: Path) -> None:
    with locked(run):
        before = snapshot(run)
        result = cli("toy2d", "--resume", "--iterations", 4, "--out", run)
        assert_one_error(result, "in use by another process", f"pid {os.getpid()}", "--out")
        assert snapshot(run) == before
    assert cli("toy2d", "--resume", "--iterations", 4, "--out", run).exit_code == 0
    assert not (run / "run.lock").exists()


def test_a_batch_that_no_memory_holds_is_one_error(cli: Cli, tmp_path: Path) -> None:
    options = ("toy2d", *TOY, "--batch-size", 10**13, "--out", tmp_path / "run")
    assert_one_error(cli(*options), "batch_size: expected at most 100,000,000")


def test_a_run_cannot_end_before_the_steps_that_it_has_done(cli: Cli, run: Path) -> None:
    (run / "summary.json").unlink()
    before = snapshot(run)
    result = cli("toy2d", "--resume", "--iterations", 1, "--out", run)
    assert_one_error(result, "iterations: 2 steps are done already")
    assert snapshot(run) == before


@pytest.mark.parametrize("command", ["toy2d --resume --out", "evaluate", "sample"])
def test_no_such_run(cli: Cli, tmp_path: Path, command: str) -> None:
    missing = tmp_path / "nowhere"
    assert_one_error(cli(*command.split(), missing), "no such run")
    assert not missing.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("toy2d", "--seed", "3"), ("seed", "cannot become 3", "another run")),
        (("toy2d", "--batch-size", "40"), ("batch_size", "cannot become 40", "another run")),
        (("toy2d", "--set", "blocks=2"), ("blocks", "cannot become 2", "another run")),
        (("toy2d", "--set", "density=rings"), ("density", "another run")),
        (("toy2d", "--set", "training.optimizer.name=sgd"), ("optimizer.name", "another run")),
        (("toy2d", "rings-monotone"), ("2spirals-monotone, not of rings-monotone",)),
        (("fit1d",), ("a run of toy2d",)),
    ],
)
def test_a_run_is_not_resumed_as_another(
    cli: Cli, run: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = snapshot(run)
    result = cli(*arguments, "--resume", "--iterations", 5, "--out", run)
    assert_one_error(result, *words)
    assert snapshot(run) == before


def test_a_resumed_run_may_be_told_another_learning_rate_and_says_so(cli: Cli, run: Path) -> None:
    command = ("toy2d", "--resume", "--iterations", 4, "--log-every", 1, "--out", run)
    assert cli(*command, "--lr", 0.1, "--set", "gradient_clip=2").exit_code == 0
    description = json.loads((run / "config.json").read_text())
    (entry,) = description["changes"]
    assert entry["after_step"] == 2
    assert entry["changed"]["training.optimizer.learning_rate"] == [1e-3, 0.1]
    assert entry["changed"]["training.gradient_clip"] == [None, 2.0]
    assert description["config"]["training"]["optimizer"]["learning_rate"] == 0.1
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {r["step"]: r["learning_rate"] for r in rows if r["split"] == "train"} == {
        3: 0.1,
        4: 0.1,
    }


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def truncate(content: bytes) -> bytes:
    return content[:-10]


def empty(_content: bytes) -> bytes:
    return b""


def foreign(_content: bytes) -> bytes:
    return pickle.dumps({"step": 1})


@pytest.mark.parametrize("command", ["evaluate", "sample"])
@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (flip, "SHA-256"),
        (truncate, "SHA-256"),
        (empty, "not a checkpoint"),
        (foreign, "not a checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    cli: Cli, run: Path, command: str, damage: Callable[[bytes], bytes], word: str
) -> None:
    newest = run / "checkpoints" / "step_000000002.ckpt"
    newest.write_bytes(damage(newest.read_bytes()))
    before = snapshot(run)
    assert_one_error(cli(command, run), word)
    assert snapshot(run) == before


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"experiment": ["toy2d"], "config": {}}', '{"experiment": "toy2d", "config": 3}'],
)
@pytest.mark.parametrize("command", [("evaluate",), ("toy2d", "--resume", "--out")])
def test_a_damaged_config_is_refused(
    cli: Cli, run: Path, command: tuple[str, ...], content: str
) -> None:
    (run / "config.json").write_text(content)
    assert_one_error(cli(*command, run), "config.json")


def test_a_folder_that_was_never_begun_is_used(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".unfinished-config.json.123").write_text("{")
    assert cli("toy2d", *TOY, "--iterations", 2, "--out", folder).exit_code == 0


def test_a_start_that_failed_before_its_first_step_is_made_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    options = ("toy2d", *TOY, "--iterations", 2, "--out", folder)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("flow_apps.experiments.toy2d.data.sample_toy", refuse)
        assert_one_error(cli(*options), "No space left on device")
    assert (folder / "config.json").exists()
    assert not (folder / "run.lock").exists()
    assert cli(*options).exit_code == 0


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_a_solver_that_fails_after_training_is_one_error(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SolverError("w + G(w) = x", torch.tensor([1.0]), torch.tensor([1]))

    monkeypatch.setattr(Solve, "__call__", fail)
    assert_one_error(cli(command, run), "step 2", "samples [0]", "1 STALLED")


@pytest.mark.parametrize(
    "options", [("--count", 0), ("--temperature", -1), ("--budget", 0), ("--device", "abacus")]
)
def test_a_bad_sample_request(cli: Cli, run: Path, options: tuple[object, ...]) -> None:
    before = snapshot(run)
    assert_one_error(cli("sample", run, *options), str(options[0]).strip("-"))
    assert snapshot(run) == before


def test_a_full_disk_is_one_error_and_loses_nothing(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(run / "checkpoints")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.fsync", refuse)
        result = cli("toy2d", "--resume", "--iterations", 4, "--out", run)
    assert_one_error(result, "cannot write", str(run), "No space left on device", "--resume")
    assert snapshot(run / "checkpoints") == before
    assert cli("toy2d", "--resume", "--iterations", 4, "--out", run).exit_code == 0


def test_another_length_would_move_milestones(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = (*TOY, "--set", "milestones=[[0.5, 0.1]]", "--iterations", 2, "--out", folder)
    assert cli("toy2d", *options).exit_code == 0
    before = snapshot(folder)
    result = cli("toy2d", "--resume", "--iterations", 4, "--out", folder)
    assert_one_error(result, "training.iterations", "cannot become 4")
    assert snapshot(folder) == before


@pytest.mark.parametrize("temperature", ["nan", "inf", "0"])
def test_temperatures_are_positive_numbers(cli: Cli, run: Path, temperature: str) -> None:
    assert_one_error(cli("sample", run, "--temperature", temperature), "temperature")


def test_a_damaged_best_checkpoint_does_not_cost_the_run(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = (*TOY, "--set", "evaluate_every=1")
    assert cli("toy2d", *options, "--iterations", 2, "--out", folder).exit_code == 0
    best = folder / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-7])
    (folder / "summary.json").unlink()
    result = cli("toy2d", "--resume", "--out", folder)
    assert result.exit_code == 0, result.output
    assert "best weights are not tested" in result.stderr
    assert "test_nats" in (folder / "summary.json").read_text()
