import json
import math
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from flow_apps.config import TrainingConfig
from flow_apps.errors import ConfigError
from flow_apps.training import RunFolder
from flow_apps.training.files import write_json
from flow_apps.training.metrics import (
    JsonLines,
    TensorBoard,
    Tracker,
    cut_metrics,
    flatten,
    read_metrics,
    require_trackers,
)
from flow_apps.training.reporting import last_tests


def test_lines_are_json_even_with_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    JsonLines(path).log(3, "train", {"nats": float("nan"), "solver": {"a": {"residual": 1e-7}}})
    (row,) = read_metrics(path)
    assert row == {"step": 3, "split": "train", "nats": "nan", "solver": {"a": {"residual": 1e-7}}}


def test_cutting_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "split": "train"}) for step in range(5)]
    path.write_text("\n".join(lines) + '\n{"step": 5')
    cut_metrics(path, 2)
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2]


def test_nested_numbers_are_flattened() -> None:
    assert flatten({"a": 1, "b": {"c": 2.0}, "d": "text"}) == {"a": 1.0, "b/c": 2.0}


def test_a_tracker_gets_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []
    module = ModuleType("trackio")
    for name in ("init", "log", "finish"):

        def call(*args: Any, _name: str = name, **kwargs: Any) -> None:
            calls.append((_name, args or kwargs))

        setattr(module, name, call)
    monkeypatch.setitem(sys.modules, "trackio", module)
    tracker = Tracker("trackio", "project", "run", {"seed": 1})
    tracker.log(4, "test", {"nats": 2.0})
    tracker.close()
    assert [name for name, _ in calls] == ["init", "log", "finish"]
    assert calls[1][1] == ({"test/nats": 2.0},)


def test_a_tracker_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match="trackio is not installed"):
        require_trackers(TrainingConfig(trackers=("trackio",)))


def test_objects_are_json_even_with_infinity(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"growth_bound": {"layers.0": math.inf}, "errors": [1.0, math.nan]})
    text = path.read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    assert json.loads(text) == {"growth_bound": {"layers.0": "inf"}, "errors": [1.0, "nan"]}


def test_a_test_that_was_nan_makes_the_mean_nan(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    JsonLines(folder.metrics_path).log(1, "test", {"nats": float("nan")})
    assert math.isnan(cast(float, last_tests(folder)["test_nats_last20"]))


def test_cutting_forgets_tests_that_were_made_because_a_run_ended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [(7, "test"), (10, "train"), (14, "test"), (15, "train"), (21, "test")]
    ended = json.dumps({"step": 15, "split": "test", "at_end": True}) + "\n"
    path.write_text("".join(json.dumps({"step": n, "split": s}) + "\n" for n, s in rows) + ended)
    cut_metrics(path, 15)
    kept = [(row["step"], row["split"]) for row in read_metrics(path)]
    assert kept == [(7, "test"), (10, "train"), (14, "test"), (15, "train")]


def test_the_test_at_the_end_counts_only_where_there_is_no_other(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = JsonLines(folder.metrics_path)
    lines.log(5, "test", {"nats": 9.0, "at_end": True})
    assert last_tests(folder) == {"test_nats_last20": 9.0}
    for step in range(4, 104, 4):
        lines.log(step, "test", {"nats": float(step)})
    assert last_tests(folder) == {"test_nats_last20": 62.0}


def test_lines_that_are_none_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = {"step": 3, "split": "train", "nats": 1.0}
    rows = ["[1]", "7", "{}", '{"step": "3"}', '{"step": 1}', '{"step": true, "split": "test"}']
    odd = [*map(str.encode, rows), b'{"step": 2, "split": null}', b"\xff\xfe", b'{"step": 4, "spl']
    path.write_bytes(b"\n".join([json.dumps(good).encode(), *odd]))
    assert read_metrics(path) == [good]
    cut_metrics(path, 3)
    assert read_metrics(path) == [good]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, first_step=1)
    board.log(3, "train", {"nats": 2.5, "solver": {"a": {"residual": 1e-7}}})
    board.close()
    again = TensorBoard(tmp_path, first_step=3)
    again.log(3, "train", {"nats": 2.0})
    again.close()
    reader: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert [(event.step, event.value) for event in accumulator.Scalars("train/nats")] == [(3, 2.0)]
