"""Flows of two-dimensional densities at equal CPU time: nats against seconds.

    python benchmarks/race.py FOLDER [--densities 2spirals ...] [--rivals sandwich ...]
                              [--budgets 10 30 60 120] [--seeds 3] [--quick] [--out FILE]
                              [--figure FILE.png]

Every run is a process of its own, with one thread. Its budget is CPU time, children counted, from
where the flow is made: compilers are part of it, imports are not. All runs are alike: batches of
500 fresh points, Adam with betas (.9, .99), gradients clipped at 5, a moving average of the weights
(.99) that is what is tested, and a learning rate that warms up over 3 % of the budget and then
falls to zero as a cosine of the time that has passed, so that each run ends its schedule with its
budget: no point of a curve is read off a longer run. The learning rate of a rival is the best of
four on validation points, with a budget of 60 s and seed 0, on each density.

All are tested on the same 20,000 points, which nothing else uses. `nats` is the mean over seeds,
`- NSF` the mean difference from the spline flow on the same points, `error` its standard error over
seeds and points. What is in FOLDER is not run again: a killed race goes on.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from flow_apps.figures.canvas import new_figure, save_figure
from flow_data.toy import sample_toy
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rivals import RIVALS, Rival, is_installed
from benchmarks.tables import Row, machine, parser, print_table, write_json

RATES = (2e-3, 5e-3, 1e-2, 2e-2)
SEARCH_BUDGET = 60.0
BATCH, AVERAGE, CLIP, WARMUP = 500, 0.99, 5.0, 0.03
POINTS = {"validation": (5_000, 1), "test": (20_000, 2)}
REFERENCE = "zuko NSF"


@dataclass(frozen=True)
class Run:
    """One training."""

    rival: str
    density: str
    budget: float
    rate: float
    seed: int
    split: str

    @property
    def name(self) -> str:
        """Of its files."""
        text = f"{self.rival} {self.density} {self.budget:g} {self.rate:g} {self.seed} {self.split}"
        return text.replace(",", "").replace(" ", "_")


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def factor(done: float) -> float:
    """Of the learning rate, when this part of the budget is spent."""
    return min(1.0, (done + 1e-3) / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def trained(run: Run) -> tuple[Rival, int]:
    """The averaged model when the budget is spent, and its steps."""
    torch.manual_seed(run.seed)
    source = torch.Generator().manual_seed(1000 + run.seed)
    start = cpu_seconds()

    def points() -> Tensor:
        return sample_toy(run.density, BATCH, generator=source)

    rival = RIVALS[run.rival](run.density, points())
    parameters: list[Tensor] = [p for p in rival.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=run.rate, betas=(0.9, 0.99), fused=True)
    average, steps = [p.detach().clone() for p in parameters], 0
    while (done := (cpu_seconds() - start) / run.budget) < 1:
        optimizer.param_groups[0]["lr"] = run.rate * factor(done)
        optimizer.zero_grad()
        torch.autograd.backward(-rival.log_prob(points()).mean())
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        rival.follow()
        steps += 1
        kept = min(AVERAGE, steps / (steps + 10))
        averaged = get_ema_multi_avg_fn(kept)  # type: ignore[no-untyped-call]  # torch gives none
        averaged(average, parameters, steps)
    with torch.no_grad():
        for p, a in zip(parameters, average, strict=True):
            p.copy_(a)
    for _ in range(20):
        rival.follow()
    rival.model.eval()
    return rival, steps


@torch.no_grad()
def mass(rival: Rival) -> float:
    """The integral of the density over [-8, 8]²."""
    axis = (torch.arange(400) + 0.5) / 25 - 8
    parts = torch.split(torch.cartesian_prod(axis, axis), 8000)
    return sum(float(rival.test_log_prob(part).exp().double().sum()) for part in parts) / 625


def perform(run: Run, folder: Path) -> None:
    """Train, test, and write what came."""
    torch.set_num_threads(1)
    rival, steps = trained(run)
    count, seed = POINTS[run.split]
    points = sample_toy(run.density, count, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = torch.cat([rival.test_log_prob(part) for part in torch.split(points, 1000)])
    result = {
        **asdict(run),
        "nats": -float(found.double().mean()),
        "steps": steps,
        "parameters": sum(p.numel() for p in rival.model.parameters() if p.requires_grad),
        "mass": mass(rival) if run.split == "test" else math.nan,
    }
    np.save(folder / f"{run.name}.npy", found.double().numpy())
    path = folder / f"{run.name}.json"
    path.with_suffix(".part").write_text(json.dumps(result))
    path.with_suffix(".part").rename(path)


def outcome(run: Run, folder: Path) -> Mapping[str, float]:
    """What is known of a run, which takes place unless it did."""
    path = folder / f"{run.name}.json"
    if not path.exists():
        command = [sys.executable, __file__, str(folder), "--run", json.dumps(asdict(run))]
        subprocess.run(command, check=True)
        print(f"{run.name}: {json.loads(path.read_text())['nats']:.4f} nats", flush=True)
    result: Mapping[str, float] = json.loads(path.read_text())
    return result


def best_rate(rival: str, density: str, budget: float, folder: Path) -> float:
    """The learning rate that is best on validation points."""
    runs = [Run(rival, density, budget, rate, 0, "validation") for rate in RATES]
    found = [outcome(run, folder)["nats"] for run in runs]
    return RATES[min(range(len(RATES)), key=lambda i: (math.isnan(found[i]), found[i]))]


def log_likelihoods(run: Run, folder: Path) -> np.ndarray:
    """Of every test point."""
    found: np.ndarray = np.load(folder / f"{run.name}.npy")
    return found


def row(runs: Sequence[Run], others: Sequence[Run], folder: Path) -> Row:
    """A rival at one budget, and how far it is above the reference on the same points."""
    results = [outcome(run, folder) for run in runs]
    pairs = zip(runs, others, strict=True)
    differences = [log_likelihoods(o, folder) - log_likelihoods(r, folder) for r, o in pairs]
    means = [float(d.mean()) for d in differences]
    over_points = float(np.mean(differences, 0).std()) / math.sqrt(len(differences[0]))
    over_seeds = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return {
        "rival": runs[0].rival,
        "CPU s": runs[0].budget,
        "nats": mean(r["nats"] for r in results),
        "- NSF": mean(means),
        "error": math.hypot(over_points, over_seeds),
        "seeds": " ".join(f"{r['nats']:.3f}" for r in results),
        "rate": runs[0].rate,
        "steps": round(mean(r["steps"] for r in results)),
        "parameters": int(results[0]["parameters"]),
        "mass off by": max(abs(r["mass"] - 1) for r in results),
    }


def raced(density: str, arguments: argparse.Namespace) -> Iterator[Row]:
    """All rivals at all budgets; they take turns, seed by seed."""
    folder: Path = arguments.folder
    search = min(SEARCH_BUDGET, max(arguments.budgets))
    rates = {rival: best_rate(rival, density, search, folder) for rival in arguments.rivals}
    for budget in arguments.budgets:
        table = {
            rival: [
                Run(rival, density, budget, rates[rival], s, "test") for s in range(arguments.seeds)
            ]
            for rival in arguments.rivals
        }
        for turn in zip(*table.values(), strict=True):
            for run in turn:
                outcome(run, folder)
        reference = table.get(REFERENCE, table[arguments.rivals[0]])
        yield from (row(runs, reference, folder) for runs in table.values())


def draw(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Nats against CPU seconds, a panel per density."""
    figure = new_figure(4.2 * len(tables), 3.6)
    for axes, (density, rows) in zip(
        figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True
    ):
        for rival in dict.fromkeys(str(r["rival"]) for r in rows):
            own = [r for r in rows if r["rival"] == rival]
            axes.plot([r["CPU s"] for r in own], [r["nats"] for r in own], marker="o", label=rival)
        axes.set(title=density, xscale="log", xlabel="CPU seconds", ylabel="test nats")
    figure.axes[-1].legend(fontsize=7)
    save_figure(figure, path)


def main() -> None:
    """Race, print the tables, write the JSON and the picture."""
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="where runs are kept")
    options.add_argument("--densities", nargs="+", default=["2spirals", "checkerboard", "rings"])
    options.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    options.add_argument("--budgets", nargs="+", type=float, default=[10.0, 30.0, 60.0, 120.0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--figure", type=Path, help="a PNG of the curves")
    options.add_argument("--run", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.run:
        perform(Run(**json.loads(arguments.run)), arguments.folder)
        return
    if arguments.quick:
        arguments.densities, arguments.budgets, arguments.seeds = ["2spirals"], [10.0], 1
    missing = [rival for rival in arguments.rivals if not is_installed(rival)]
    arguments.rivals = [rival for rival in arguments.rivals if rival not in missing]
    print(machine(), *(f"not installed, left out: {rival}" for rival in missing), sep="\n")
    tables = {density: list(raced(density, arguments)) for density in arguments.densities}
    for title, rows in tables.items():
        print_table(title, rows)
    write_json(arguments.out, tables)
    if arguments.figure:
        draw(tables, arguments.figure)


if __name__ == "__main__":
    main()
