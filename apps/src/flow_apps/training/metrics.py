"""Where the numbers of a run go."""

import contextlib
import importlib
import importlib.util
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from flow_apps.config import TrainingConfig, to_json
from flow_apps.errors import ConfigError
from flow_apps.training.files import json_values, write_atomic, writing

Values = Mapping[str, object]

AT_END = "at_end"
"""Marks evaluations that were made because a run ended."""


@runtime_checkable
class Logger(Protocol):
    """Anything that takes numbers."""

    def log(self, step: int, split: str, values: Values) -> None:
        """Take the named values of a split at a step; values may be nested by name."""
        ...


class JsonLines:
    """One JSON object a line, complete on disk when `log` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def log(self, step: int, split: str, values: Values) -> None:
        """Append a line."""
        row = json_values({"step": step, "split": split, **values})
        line = json.dumps(row, allow_nan=False)
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class TensorBoard:
    """Scalars for TensorBoard, nested names joined by slashes."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from flow_apps.training.tensorboard import EventFile  # noqa: PLC0415 (only runs need it)

        self._folder = folder
        with writing(folder):
            self._events = EventFile(folder, first_step)

    def log(self, step: int, split: str, values: Values) -> None:
        """Add every number as a scalar."""
        named = {f"{split}/{name}": value for name, value in flatten(values).items()}
        with writing(self._folder):
            self._events.add_scalars(named, step)

    def close(self) -> None:
        """Close the file."""
        self._events.close()


class Tracker:
    """An experiment tracker with the interface that wandb and trackio share."""

    def __init__(self, name: str, project: str, run: str, config: Values) -> None:
        self._module: Any = importlib.import_module(name)
        self._module.init(project=project, name=run, config=dict(config))

    def log(self, step: int, split: str, values: Values) -> None:
        """Pass the numbers on."""
        named = {f"{split}/{name}": value for name, value in flatten(values).items()}
        self._module.log(named, step=step)

    def close(self) -> None:
        """End the run at the tracker."""
        self._module.finish()


def require_trackers(config: TrainingConfig) -> None:
    """Refuse trackers that are not there, before anything is written.

    Raises:
        ConfigError: If one is not installed.
    """
    for name in config.trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"trackers: {name} is not installed; install it or drop it")


@contextlib.contextmanager
def open_loggers(
    folder: Path, config: TrainingConfig, *, first_step: int
) -> Generator[list[Logger], None, None]:
    """The loggers of a run folder, closed at the end."""
    with contextlib.ExitStack() as stack:
        board = TensorBoard(folder / "tensorboard", first_step)
        stack.callback(board.close)
        loggers: list[Logger] = [JsonLines(folder / "metrics.jsonl"), board]
        for name in config.trackers:
            tracker = Tracker(name, config.tracker_project, folder.name, to_json(config))
            stack.callback(tracker.close)
            loggers.append(tracker)
        yield loggers


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; what is no such line, like a half written one, is dropped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [row for row in map(_parsed, lines) if row is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    named = cast(dict[str, Any], row)
    return named if type(named.get("step")) is int and type(named.get("split")) is str else None


def cut_metrics(path: Path, step: int) -> None:
    """Forget the lines after a step, and those that were written because the run ended there.

    They are what a resumed run is going to write again, or would not have written.
    """
    rows = read_metrics(path)
    kept = [row for row in rows if row["step"] <= step and not row.get(AT_END)]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept).encode())


def flatten(values: Values, prefix: str = "") -> dict[str, float]:
    """The numbers among nested values, names joined by slashes."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(cast(Values, value), f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = float(value)
    return flat
