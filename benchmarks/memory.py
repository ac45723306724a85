"""What a pass keeps for its backward pass: memory and CPU time by policy and depth.

    python benchmarks/memory.py [--quick] [--steps 5] [--out FILE]

Two stacks: steps of Glow (ActNorm, 1x1 convolution, affine coupling of 64 channels) on 16 images
of 3x32x32, squeezed to 12x16x16; and monotone blocks on 16 images of 4x8x8 with Krylov
log-determinants. Every case is a process of its own. `tensors` are the bytes that torch's allocator
had given out at most in a forward and a backward pass, without the gradients of the weights;
`process` is how far the largest memory of the process grew over that before the first pass, and
`later` how far the passes after the first one raised it. `CPU s` is the median of a pass.
`gradient` is the relative distance of all gradients together from those of the stored pass, in
float32. `root` are checkpoints of √depth layers.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from flow_core import (
    ActNorm,
    AffineCoupling,
    Chain,
    Checkpointed,
    Conv1x1,
    DenseNet,
    MemoryPolicy,
    Monotone,
    Reversible,
    Settings,
    Squeeze,
    initialize,
    update_lipschitz,
)
from flow_logdet import Krylov

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, parser, print_table, write_json

POLICIES: dict[str, Callable[[int], MemoryPolicy | None]] = {
    "stored": lambda depth: None,
    "checkpointed": lambda depth: Checkpointed(),
    "root": lambda depth: Checkpointed(round(depth**0.5)),
    "reversible": lambda depth: Reversible(),
}


def couplings(depth: int) -> tuple[Chain, torch.Tensor]:
    """Steps of Glow, a little away from their initial point."""
    steps = [
        layer
        for _ in range(depth)
        for layer in (ActNorm(12), Conv1x1(12), AffineCoupling.convolutional(12, 64))
    ]
    chain, x = Chain([Squeeze(), *steps]), torch.rand(16, 3, 32, 32)
    for p in chain.parameters():
        p.data += 0.01 * torch.randn_like(p)
    initialize(chain, x)
    return chain, x


def monotone(depth: int) -> tuple[Chain, torch.Tensor]:
    """Blocks with a constant of 0.9."""
    nets = [DenseNet(4, growth=16, depth=3, coeff=0.9, map_size=(8, 8)) for _ in range(depth)]
    chain = Chain([Monotone(net) for net in nets])
    update_lipschitz(chain, 20)
    return chain, torch.randn(16, 4, 8, 8)


STACKS = {"couplings": couplings, "monotone": monotone}


def case(stack: str, depth: int, policy: str, steps: int, gradient: Path) -> dict[str, float]:
    """One case, in the process that it is called in."""
    torch.manual_seed(0)
    chain, x = STACKS[stack](depth)
    using = Settings(estimator=Krylov(), memory=POLICIES[policy](depth))

    def step() -> None:
        torch.manual_seed(1)
        chain.zero_grad()
        z, log_det = chain(x, using=using)
        torch.autograd.backward((z.square().flatten(1).sum(1) / 2 - log_det).mean())

    before = most_memory()
    marks, seconds = [], []
    for _ in range(steps):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
        marks.append(most_memory())
    grads = [cast(torch.Tensor, p.grad).flatten() for p in chain.parameters()]
    torch.save(torch.cat(grads), gradient)
    chain.zero_grad()
    weights = sum(p.nbytes for p in chain.parameters()) / 2**20
    return {
        "tensors": allocated(step) - weights,
        "process": marks[0] - before,
        "later": marks[-1] - marks[0],
        "CPU s": statistics.median(seconds),
    }


def most_memory() -> float:
    """Of this process so far, in MiB, as Linux tells it."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def allocated(run: Callable[[], object]) -> float:
    """MiB that the allocator had given out at most."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    events = cast(Any, profile).kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return cast(float, max(accumulate(change for _, change in changes)) / 2**20)


def rows_of(stack: str, depth: int, steps: int, folder: Path) -> list[Row]:
    """A row for every policy."""
    rows: list[Row] = []
    expected = torch.empty(0)
    for policy in POLICIES:
        gradient = folder / "gradient.pt"
        figures = in_a_process(stack, depth, policy, steps, gradient)
        found = torch.load(gradient, weights_only=True)
        expected = expected if len(expected) else found
        distance = float((found - expected).norm() / expected.norm())
        told = {name: round(value, 2) for name, value in figures.items()}
        rows.append(
            {
                "stack": stack,
                "depth": depth,
                "policy": policy,
                **told,
                "gradient": f"{distance:.1e}",
            }
        )
    return rows


def in_a_process(
    stack: str, depth: int, policy: str, steps: int, gradient: Path
) -> dict[str, float]:
    """The figures of one case."""
    arguments = ["--case", stack, str(depth), policy, str(steps), str(gradient)]
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=5, help="passes of a case")
    options.add_argument("--case", nargs=5, help="one case, for the processes of the script")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.case:
        stack, depth, policy, steps, gradient = chosen.case
        print(json.dumps(case(stack, int(depth), policy, int(steps), Path(gradient))))
        return
    depths = (12, 48) if chosen.quick else (12, 24, 48)
    with tempfile.TemporaryDirectory() as folder:
        tables = {
            stack: [row for d in depths for row in rows_of(stack, d, chosen.steps, Path(folder))]
            for stack in STACKS
        }
    for stack, rows in tables.items():
        print_table(f"{stack}: MiB and CPU seconds", rows)
    write_json(chosen.out, tables)


if __name__ == "__main__":
    main()
