"""One block on images in training, forward and backward: CPU time, products and memory.

    python benchmarks/blocks.py [--rounds 7] [--quick] [--threads 1] [--out FILE]

Monotone blocks of the first scale of the published CIFAR-10 model, 3x32x32, growth 172, three dense
layers, CPila, four images, loss in bits/dim; the published block is re-implemented
(`published_block.py`). Blocks take turns, so that other load meets all alike. `passes` counts
what the widest layer did, in convolutions of one kind: evaluations and products with J, products
with its transpose, and gradients of weights. `MB` is the largest memory of a process of its own,
torch included.
"""

import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flow_core import Settings
from flow_core.blocks import Monotone, Residual
from flow_core.maps import DenseNet
from flow_logdet import Krylov, Recompute
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.published_block import PublishedMonotoneBlock
from benchmarks.tables import Row, cpu_milliseconds, machine, parser, print_table, write_json

IMAGES, CHANNELS, SIDE, GROWTH, DEPTH = 4, 3, 32, 172, 3
WIDEST = CHANNELS + (DEPTH - 1) * GROWTH


class Passes(TorchDispatchMode):
    """Counts the convolutions of the widest layer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  (torch says no more)
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Count, and do it."""
        del types
        if "convolution" in str(func):
            self._note(str(func), args)
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, args: Sequence[Any]) -> None:
        backward = "backward" in name
        weight = args[2] if backward else args[1]
        if weight.shape[1] != WIDEST:
            return
        if not backward:
            self.count["transposed" if args[6] else "forward"] += 1
            return
        by_input, by_weight, _ = args[10]
        self.count["transposed"] += int(by_input)
        self.count["weights"] += int(by_weight)


def net() -> DenseNet:
    """The net of a block."""
    return DenseNet(
        CHANNELS,
        growth=GROWTH,
        depth=DEPTH,
        activation="cpila",
        coeff=0.98,
        concat_bound=0.98,
        map_size=(SIDE, SIDE),
    )


def step_of(block: nn.Module, **options: object) -> Callable[[], None]:
    """Forward and backward of the bits per dimension of some images."""
    x = torch.randn(IMAGES, CHANNELS, SIDE, SIDE).requires_grad_()

    def step() -> None:
        y, log_det = block(x, **options)
        log_prob: Tensor = log_det - 0.5 * y.square().flatten(1).sum(1)
        torch.autograd.backward(-log_prob.mean() / (x[0].numel() * math.log(2)))
        for parameter in block.parameters():
            parameter.grad = None

    return step


BLOCKS: dict[str, Callable[[], Callable[[], None]]] = {
    "monotone": lambda: step_of(Monotone(net())),
    "monotone, recomputed": lambda: step_of(
        Monotone(net()), using=Settings(estimator=Recompute(Krylov()))
    ),
    "residual": lambda: step_of(Residual(net())),
    "monotone, published": lambda: step_of(PublishedMonotoneBlock(CHANNELS, GROWTH, DEPTH, SIDE)),
}
"""What makes the step of a block."""


def memory(name: str) -> float:
    """Largest memory in MB of a process that makes nothing but some steps of a block."""
    command = [sys.executable, __file__, "--memory-of", name]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def tell_memory(step: Callable[[], None]) -> None:
    """Print the largest memory of this process after some steps, in MB, as Linux tells it."""
    for _ in range(3):
        step()
    status = Path("/proc/self/status").read_text()
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024)


def rows(rounds: int) -> list[Row]:
    """Every block, in turns."""
    torch.manual_seed(0)
    blocks = {name: make() for name, make in BLOCKS.items()}
    counts: dict[str, Counter[str]] = {}
    for name, step in blocks.items():
        step()
        with Passes() as passes:
            step()
        counts[name] = passes.count
    times = cpu_milliseconds(blocks, rounds)
    return [
        {
            "block": name,
            "CPU s": times[name] / 1e3,
            "of published": times[name] / times["monotone, published"],
            "passes": counts[name].total(),
            "forward": counts[name]["forward"],
            "transposed": counts[name]["transposed"],
            "weights": counts[name]["weights"],
            "MB": memory(name),
        }
        for name in blocks
    ]


def main() -> None:
    """Print the table and write the JSON, where asked for."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--memory-of", help="only tell the memory of a step")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of is not None:
        tell_memory(BLOCKS[arguments.memory_of]())
        return
    print(machine())
    tables = {"A block in training": rows(2 if arguments.quick else arguments.rounds)}
    for title, table in tables.items():
        print_table(title, table)
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
