"""What the scripts share: the command line, interleaved CPU times, one table, one JSON file."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

Cell = str | int | float
Row = Mapping[str, Cell]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every script has."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="fewer cases and repetitions")
    result.add_argument("--out", type=Path, help="write the rows as JSON")
    result.add_argument("--threads", type=int, default=1)
    return result


def machine() -> dict[str, Cell]:
    """What times depend on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "load": round(os.getloadavg()[0], 1),
        **_accelerator(),
    }


def _accelerator() -> dict[str, Cell]:
    """The current GPU, and what compiles the kernels for it, where there are any."""
    found: dict[str, Cell] = {}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    if importlib.util.find_spec("triton") is not None:
        found["triton"] = importlib.metadata.version("triton")
    return found


def cpu_milliseconds(
    functions: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, float]:
    """Median CPU time of a call; the functions take turns, so that other load meets all alike."""
    turns: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.process_time()
            function()
            turns[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in turns.items()}


def print_table(title: str, rows: Sequence[Row]) -> None:
    """A table with the keys of the first row as its head."""
    head = list(rows[0])
    body = [[_text(row[key]) for key in head] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    print(f"\n{title}")
    for line in (head, ["-" * width for width in widths], *body):
        print(_line(line, widths), flush=True)


def write_json(path: Path | None, tables: Mapping[str, Sequence[Row]]) -> None:
    """All tables with the machine beside them, where a path was given."""
    if path is not None:
        document = {"machine": machine(), "tables": tables}
        path.write_text(json.dumps(document, indent=2) + "\n")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])


def _text(cell: Cell) -> str:
    if not isinstance(cell, float):
        return str(cell)
    if cell == 0.0 or 0.01 <= abs(cell) < 1e4:
        return f"{cell:.4g}"
    return f"{cell:.1e}"


def _processor() -> str:
    """The model of the CPU where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
