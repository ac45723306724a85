"""CPila on the CPU: the definition, operation by operation, against ours, eager and compiled.

    python benchmarks/cpila.py [--threads 1] [--rounds 15] [--no-compile] [--out FILE]

Prints the median CPU time per call in microseconds. The variants take turns within each round, so
that other load on the machine meets all of them alike.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from flow_kernels import cpila, cpila_with_slope
from torch import Tensor

SHAPES = [(500, 8), (1500, 16), (16, 32, 32, 32), (64, 172, 32, 32)]

# What one turn should take at least: far more than the clock's resolution.
TURN_SECONDS = 0.02

Pair = tuple[Tensor, Tensor]


def definition(w: Tensor) -> Tensor:
    """Pila in the way that its formula reads."""
    t = torch.where(w > 0, 0.0, w)
    return torch.where(w > 0, w, (12.5 * t**3 - 5 * t**2 + t) * torch.exp(5 * t))


def definition_slope(w: Tensor) -> Tensor:
    """Its derivative likewise."""
    t = torch.where(w > 0, 0.0, w)
    return torch.where(w > 0, 1.0, (62.5 * t**3 + 12.5 * t**2 - 5 * t + 1) * torch.exp(5 * t))


def naive(x: Tensor) -> Tensor:
    """The value."""
    return torch.cat((definition(x - 0.2), definition(-x - 0.2)), 1) / 1.06


def naive_with_slope(x: Tensor) -> Pair:
    """The value and the slope."""
    slope = torch.cat((definition_slope(x - 0.2), -definition_slope(-x - 0.2)), 1) / 1.06
    return naive(x), slope


def ours(x: Tensor) -> Tensor:
    """The value."""
    return cpila(x, 1)


def ours_with_slope(x: Tensor) -> Pair:
    """The value and the slope."""
    return cpila_with_slope(x, 1)


def forward(function: Callable[[Tensor], object]) -> Callable[[Tensor], object]:
    """Evaluate without a graph."""
    return torch.no_grad()(function)


def forward_backward(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], object]:
    """Evaluate and pull a cotangent back."""

    def run(x: Tensor) -> object:
        x = x.detach().requires_grad_()
        y = function(x)
        return torch.autograd.grad(y, x, y.detach())

    return run


def compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Inductor's version, for one static shape."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def compiled_pair(function: Callable[[Tensor], Pair]) -> Callable[[Tensor], Pair]:
    """The same for a pair of outputs."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def variants(with_compiler: bool) -> dict[str, dict[str, Callable[[Tensor], object]]]:
    """Task -> variant -> what to time."""
    table: dict[str, dict[str, Callable[[Tensor], object]]] = {
        "value": {"naive": forward(naive), "ours": forward(ours)},
        "value and slope": {
            "naive": forward(naive_with_slope),
            "ours": forward(ours_with_slope),
        },
        "value, backward": {"naive": forward_backward(naive), "ours": forward_backward(ours)},
    }
    if with_compiler:
        table["value"]["compiled"] = forward(compiled(ours))
        table["value and slope"]["compiled"] = forward(compiled_pair(ours_with_slope))
        table["value, backward"]["compiled"] = forward_backward(compiled(ours))
    return table


def cpu_seconds(function: Callable[[Tensor], object], x: Tensor, calls: int) -> float:
    """Mean CPU time of a call."""
    start = time.process_time()
    for _ in range(calls):
        function(x)
    return (time.process_time() - start) / calls


def measure(
    functions: dict[str, Callable[[Tensor], object]], x: Tensor, rounds: int
) -> dict[str, float]:
    """Median over the rounds, in microseconds."""
    calls: dict[str, int] = {}
    for name, function in functions.items():
        function(x)
        calls[name] = max(1, round(TURN_SECONDS / max(cpu_seconds(function, x, 2), 1e-6)))
    turns: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            turns[name].append(cpu_seconds(function, x, calls[name]))
    return {name: 1e6 * statistics.median(seconds) for name, seconds in turns.items()}


def report(task: str, shape: tuple[int, ...], times: dict[str, float]) -> None:
    """One line of the table: times, and how many times faster than the definition."""
    cells = [f"{times[name]:12.1f}" for name in times]
    gains = [f"{times['naive'] / times[name]:8.1f}x" for name in times if name != "naive"]
    print(f"{task:16s} {shape!s:18s} {''.join(cells)}  {''.join(gains)}", flush=True)


def main() -> None:
    """Run everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), CPU microseconds per call")
    names = ["naive", "ours"] if arguments.no_compile else ["naive", "ours", "compiled"]
    print(f"{'task':16s} {'shape':18s} {''.join(f'{name:>12s}' for name in names)}   against naive")
    rows: list[dict[str, object]] = []
    for shape in SHAPES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        for task, functions in variants(not arguments.no_compile).items():
            times = measure(functions, x, arguments.rounds)
            report(task, shape, times)
            rows.append({"task": task, "shape": shape, "microseconds": times})
    if arguments.out is not None:
        document = {"torch": torch.__version__, "threads": arguments.threads, "rows": rows}
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
