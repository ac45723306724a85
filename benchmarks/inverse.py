"""The inverse of a 64-d residual block against a plain fixed-point loop, in turns.

    python benchmarks/inverse.py [--quick] [--threads 1] [--out FILE]

Batch 32, random weights, no gradients. The loop makes w ← y − G(w) until the largest step of a
sample is a 1e-6th of the shortest one; it keeps no tolerance per sample, freezes nothing and sees
no NaN. `CPU ms` are medians of calls that take turns, `ratio` is ours over the loop, `overhead`
what is left of ours per evaluation when the evaluations and the binding of the weights are taken
off.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from flow_core import DenseNet, FeedForwardNet, LipschitzNet, Residual, record, update_lipschitz
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json

NETS: dict[str, Callable[[], LipschitzNet]] = {
    "dense, cpila": lambda: DenseNet(64),
    "dense, crelu": lambda: DenseNet(64, activation="crelu"),
    "2 x 64, lipswish": lambda: FeedForwardNet(64, [64, 64]),
    "2 x 256, elu": lambda: FeedForwardNet(64, [256, 256], activation="elu"),
}


def made(net: LipschitzNet) -> Residual:
    """A block whose layers are at their bounds."""
    block = Residual(net).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    update_lipschitz(block, 50)
    return block


def plain_loop(block: Residual, y: Tensor) -> tuple[Tensor, int]:
    """The solution and how many evaluations it took."""
    bound, w = block.g.bind(), y
    for count in range(1, 1000):
        ahead = y - bound(w)
        if (ahead - w).norm(dim=1).max() <= 1e-6 * ahead.norm(dim=1).min():
            return ahead, count
        w = ahead
    raise RuntimeError("expected a contraction, got none")


def timed(*calls: Callable[[], object], rounds: int) -> list[float]:
    """Median CPU milliseconds of calls that take turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, seconds, strict=True):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    return [1e3 * median(times) for times in seconds]


@torch.no_grad()
def row(name: str, rounds: int) -> Row:
    """One net."""
    torch.manual_seed(0)
    block, x = made(NETS[name]()), torch.randn(32, 64)
    y = block.transform(x)
    with record(block) as report:
        found = block.inverse(y)
    effort, (other, count) = report.summary()[""], plain_loop(block, y)
    bound = block.g.bind()
    ours, loop, evaluation, binding = timed(
        lambda: block.inverse(y),
        lambda: plain_loop(block, y),
        lambda: bound(y),
        block.g.bind,
        rounds=rounds,
    )
    calls = effort.max_evaluations
    return {
        "net": name,
        "ours": ours,
        "loop": loop,
        "ratio": ours / loop,
        "evaluations": f"{calls} / {count}",
        "evaluation": evaluation,
        "overhead": (ours - binding) / calls - evaluation,
        "error": f"{float((found - x).abs().max()):.0e} / {float((other - x).abs().max()):.0e}",
    }


def main() -> None:
    """Print the table, write the JSON."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    rows = [row(name, 20 if arguments.quick else 200) for name in NETS]
    print_table("CPU ms", rows)
    write_json(arguments.out, {"CPU ms": rows})


if __name__ == "__main__":
    main()
