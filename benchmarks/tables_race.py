"""Flows of tables at equal CPU time: test nats, and differences from zuko's NSF and MAF.

    python benchmarks/tables_race.py FOLDER --data-root ROOT [--tables miniboone wine ...]
                                     [--rivals implicit ...] [--budget 120] [--splits 3]
                                     [--quick] [--out FILE]

ROOT has `miniboone/data.npy`; the other tables come with scikit-learn. Every run is a process of
its own, with one thread. Its budget is CPU time, from where the flow is made, evaluations included;
imports are not. All runs are alike: batches of 128 rows, with noise of .05 on MINIBOONE, AdamW with
betas (.9, .99), gradients clipped at 5, and a learning rate that warms up over 3 % of the budget
and then falls to zero as a cosine of the time that has passed. Validation rows are looked at forty
times, and the weights that are best on them are kept. The learning rate of a rival is the best of
four on the validation rows of the first division, with the whole budget, table by table. Test rows
are looked at once, by the kept weights of the final runs; a search does not touch them.

`nats` is the mean over divisions. `- NSF` is the mean of nats of NSF less those of the rival on the
same rows: above zero the rival is better. `error` is its standard error over divisions or over
rows, whichever is larger. `broken` counts final runs that ended before their budget, by an error of
a solve or of numbers. What is in FOLDER is not run again: a killed race goes on. `--quick` is wine,
two divisions and four seconds a run.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from flow_data import TableSplits
from flow_solvers import SolverError
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.race import cpu_seconds, factor
from benchmarks.rivals import Rival, is_installed
from benchmarks.rivals_of_tables import RIVALS, TABLES, Task, task
from benchmarks.tables import Row, machine, parser, print_table, write_json

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
REFERENCES = {"NSF": "zuko NSF", "MAF": "zuko MAF"}
BATCH, CLIP, LOOKS = 128, 5.0, 40


@dataclass(frozen=True)
class Run:
    """One training; only those that are final see test rows."""

    rival: str
    table: str
    budget: float
    rate: float
    division: int
    final: bool

    @property
    def name(self) -> str:
        """Of its files."""
        purpose = "final" if self.final else "search"
        text = f"{self.rival} {self.table} {self.budget:g} {self.rate:g} {self.division} {purpose}"
        return text.replace(",", "").replace(" ", "_")


class Best:
    """The weights that were best on validation rows.

    Attributes:
        nats: Theirs; infinite as long as none were finite.
    """

    def __init__(self, rival: Rival, rows: Tensor) -> None:
        self.nats = math.inf
        self._rival = rival
        self._rows = rows
        self._state = self._copy()

    def look(self) -> None:
        """Keep the present weights, if they are better."""
        found = -float(log_likelihoods(self._rival, self._rows).mean())
        if found < self.nats:
            self.nats, self._state = found, self._copy()

    def restore(self) -> None:
        """Put the kept weights back."""
        self._rival.model.load_state_dict(self._state)

    def _copy(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self._rival.model.state_dict().items()}


@torch.no_grad()
def log_likelihoods(rival: Rival, rows: Tensor) -> Tensor:
    """Of every row, in nats and float64, by the flow as it is tested."""
    rival.model.eval()
    found = torch.cat([rival.test_log_prob(part) for part in torch.split(rows, 1000)]).double()
    rival.model.train()
    return found


def batches(splits: TableSplits, noise: float, seed: int) -> Iterator[Tensor]:
    """Rows in a new order each time all were seen, with noise."""
    source = torch.Generator().manual_seed(1000 + seed)
    size = min(BATCH, len(splits.train))
    while True:
        for part in torch.split(torch.randperm(len(splits.train), generator=source), size):
            rows = splits.train[part]
            yield rows + noise * torch.randn(rows.shape, generator=source)


def warm_up() -> None:
    """What optimizers and backward passes import when they are first used."""
    number = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([number])
    torch.autograd.backward(number.sum())
    optimizer.step()


def take_step(rival: Rival, optimizer: torch.optim.Optimizer, rows: Tensor) -> None:
    """One step on the likelihood."""
    optimizer.zero_grad()
    torch.autograd.backward(-rival.log_prob(rows).mean())
    nn.utils.clip_grad_norm_(rival.model.parameters(), CLIP)
    optimizer.step()
    rival.follow()


def trained(run: Run, task: Task, splits: TableSplits) -> tuple[Rival, Best, int, str]:
    """The flow with its best weights, what they reached, its steps, and how it ended."""
    torch.manual_seed(run.division)
    start, steps, ended = cpu_seconds(), 0, "budget"
    rival = RIVALS[run.rival](task, splits.train, run.division)
    parameters: list[Tensor] = [p for p in rival.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=run.rate, betas=(0.9, 0.99))
    source = batches(splits, task.table.noise, run.division)
    best, looks = Best(rival, splits.validation), 0
    # A flow that breaks has spent its chance: what it was at its best is what counts.
    try:
        while (done := (cpu_seconds() - start) / run.budget) < 1:
            optimizer.param_groups[0]["lr"] = run.rate * factor(done)
            take_step(rival, optimizer, next(source))
            steps += 1
            if done * LOOKS >= looks:
                best.look()
                looks += 1
        best.look()
    except (SolverError, ValueError) as error:
        ended = f"{type(error).__name__} at step {steps + 1}"
    best.restore()
    return rival, best, steps, ended


def perform(run: Run, folder: Path, root: Path | None) -> None:
    """Train, test what is final, and write what came."""
    torch.set_num_threads(1)
    warm_up()
    at = task(run.table, run.division, root)
    splits = at.splits()
    rival, best, steps, ended = trained(run, at, splits)
    result = {
        **asdict(run),
        "validation": best.nats,
        "steps": steps,
        "ended": ended,
        "broken": ended != "budget",
        "parameters": sum(p.numel() for p in rival.model.parameters() if p.requires_grad),
        "rows": len(splits.train),
        "dim": at.dim,
    }
    if run.final:
        found = log_likelihoods(rival, splits.test)
        np.save(folder / f"{run.name}.npy", found.numpy())
        result["nats"] = -float(found.mean())
    path = folder / f"{run.name}.json"
    path.with_suffix(".part").write_text(json.dumps(result))
    path.with_suffix(".part").rename(path)


@dataclass(frozen=True)
class Race:
    """Where runs are kept, and what all have in common."""

    folder: Path
    root: Path | None
    budget: float
    divisions: int

    def outcome(self, run: Run) -> Mapping[str, float]:
        """What is known of a run, which takes place unless it did."""
        path = self.folder / f"{run.name}.json"
        if not path.exists():
            command = [sys.executable, __file__, str(self.folder), "--run", json.dumps(asdict(run))]
            root = [] if self.root is None else ["--data-root", str(self.root)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            subprocess.run([*command, *root], check=True, env=environment)
            print(
                f"{run.name}: validation {json.loads(path.read_text())['validation']:.4f} nats",
                flush=True,
            )
        result: Mapping[str, float] = json.loads(path.read_text())
        return result

    def best_rate(self, rival: str, table: str) -> float:
        """The learning rate that is best on validation rows of the first division."""
        runs = [Run(rival, table, self.budget, rate, 0, final=False) for rate in RATES]
        found = [self.outcome(run)["validation"] for run in runs]
        return RATES[min(range(len(RATES)), key=found.__getitem__)]

    def on_table(self, table: str, rivals: Sequence[str]) -> list[Row]:
        """All rivals; they take turns, division by division."""
        rates = {rival: self.best_rate(rival, table) for rival in rivals}
        finals = {
            rival: [
                Run(rival, table, self.budget, rates[rival], d, final=True)
                for d in range(self.divisions)
            ]
            for rival in rivals
        }
        for turn in zip(*finals.values(), strict=True):
            for run in turn:
                self.outcome(run)
        return [self._row(rival, finals) for rival in rivals]

    def _row(self, rival: str, finals: Mapping[str, Sequence[Run]]) -> Row:
        results = [self.outcome(run) for run in finals[rival]]
        row: dict[str, str | int | float] = {
            "rival": rival,
            "nats": mean(r["nats"] for r in results),
            "of divisions": " ".join(f"{r['nats']:.2f}" for r in results),
        }
        for name, reference in REFERENCES.items():
            found = math.nan, math.nan
            if reference in finals:
                found = self._difference(finals[rival], finals[reference])
            row |= {f"- {name}": found[0], f"error {name}": found[1]}
        broken = sum(bool(r["broken"]) for r in results)
        return row | {
            "rate": finals[rival][0].rate,
            "steps": round(mean(r["steps"] for r in results)),
            "parameters": int(results[0]["parameters"]),
            "broken": broken,
        }

    def _difference(self, runs: Sequence[Run], others: Sequence[Run]) -> tuple[float, float]:
        """Mean difference of log-likelihoods on the same rows, and its standard error."""
        return paired([(self._found(r), self._found(o)) for r, o in zip(runs, others, strict=True)])

    def _found(self, run: Run) -> np.ndarray:
        found: np.ndarray = np.load(self.folder / f"{run.name}.npy")
        return found


def paired(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Mean over divisions of mean differences of rows, and its standard error.

    Args:
        pairs: Log-likelihoods of the same rows by both flows, for every division.
    """
    differences = [one - other for one, other in pairs]
    means = [float(d.mean()) for d in differences]
    of_rows = math.sqrt(sum(float(d.var(ddof=1)) / len(d) for d in differences)) / len(means)
    of_divisions = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0
    return mean(means), max(of_rows, of_divisions)


def main() -> None:
    """Race, print the tables, write the JSON."""
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="where runs are kept")
    options.add_argument("--data-root", type=Path, help="has miniboone/data.npy")
    options.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    options.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    options.add_argument("--budget", type=float, default=120.0, help="CPU seconds of a run")
    options.add_argument("--splits", type=int, default=3, help="divisions of every table")
    options.add_argument("--run", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.run:
        perform(Run(**json.loads(arguments.run)), arguments.folder, arguments.data_root)
        return
    if arguments.quick:
        arguments.tables, arguments.budget, arguments.splits = ["wine"], 4.0, 2
    if "miniboone" in arguments.tables:
        task("miniboone", 0, arguments.data_root)  # before any time is spent
    missing = [rival for rival in arguments.rivals if not is_installed(rival)]
    rivals = [rival for rival in arguments.rivals if rival not in missing]
    print(machine(), *(f"not installed, left out: {rival}" for rival in missing), sep="\n")
    race = Race(arguments.folder, arguments.data_root, arguments.budget, arguments.splits)
    tables = {table: race.on_table(table, rivals) for table in arguments.tables}
    for title, rows in tables.items():
        print_table(f"{title}, {race.budget:g} CPU s a run, {race.divisions} divisions", rows)
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
