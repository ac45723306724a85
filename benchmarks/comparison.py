"""Presets at equal CPU time: trained by their own commands, one table and their learning curves.

    python benchmarks/comparison.py FOLDER PRESET ... --data-root ROOT [--seconds 2700]
                                    [--rates 2e-3 5e-3 1e-2] [--search-seconds 120] [--seeds 1]
                                    [--set KEY=VALUE ...] [--quick] [--out FILE] [--figure FILE.png]

Every run is one `apps/train.py` with one thread. How many steps it has follows from the CPU time of
a step, taken from a short run before, so that the schedule of the learning rate ends with the
budget; evaluation and tests come on top. The learning rate of a preset is the best of --rates on
validation samples after runs of --search-seconds with seed 0 (at half of them where the budget is
shorter); with a single rate nothing is searched.

`test` is the figure of the weights that were best on validation, `error` its standard error over
test samples, `CPU s` what training took. What is in FOLDER is not run again and what was killed
goes on, so several calls may share FOLDER, each with its presets, and a last one makes the table.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from flow_apps.experiments import find_preset
from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.training.metrics import read_metrics

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json

TRAIN = Path(__file__).resolve().parents[1] / "apps/train.py"
PACE_STEPS = 25
SMALL_TESTS = ("validation_size=50", "test_size=50", "evaluate_every=1000000")
ONE_DRAW = "test_draws=1"
# Figure of merit, its name in the rows of metrics, and whether more is better.
MERITS = {
    "best_test_bits_per_dim": ("bits_per_dim", False),
    "best_test_accuracy": ("accuracy", True),
}


@dataclass(frozen=True)
class Contest:
    """What all runs share.

    Attributes:
        folder: Of the runs.
        data_root: Of the images.
        seconds: CPU time of a training.
        search: CPU time of a training that tells how good a learning rate is.
        rates: Learning rates to choose from.
        settings: Further settings of the presets, as `--set` has them.
    """

    folder: Path
    data_root: Path
    seconds: float
    search: float
    rates: tuple[float, ...]
    settings: tuple[str, ...]

    def outcome(self, name: str, preset: str, *options: str) -> dict[str, Any]:
        """The summary of a run, which takes place unless it did."""
        out = self.folder / name
        if not (out / "summary.json").exists():
            self._train(preset, out, options)
        summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
        return summary

    def _train(self, preset: str, out: Path, options: Sequence[str]) -> None:
        experiment = find_preset(preset)[0].name
        begun = (out / "config.json").exists()
        command = [sys.executable, str(TRAIN), experiment, preset, "--out"]
        command += [str(out), "--data-root", str(self.data_root), *options]
        for setting in self.settings:
            command += ["--set", setting]
        if begun:
            command.append("--resume")
        with out.with_name(f"{out.name}.log").open("a") as log:
            subprocess.run(
                command,
                check=True,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def pace(self, preset: str) -> float:
        """CPU seconds of a step."""
        draws = find_preset(preset)[0].name != "classify"
        settings = (*SMALL_TESTS, ONE_DRAW) if draws else SMALL_TESTS
        small = [part for setting in settings for part in ("--set", setting)]
        done = self.outcome(f"{preset}_pace", preset, "--iterations", str(PACE_STEPS), *small)
        return float(done["cpu_seconds_per_step"])

    def rate(self, preset: str) -> float:
        """The learning rate that is best on validation."""
        if len(self.rates) == 1:
            return self.rates[0]
        steps = str(max(1, round(self.search / self.pace(preset))))
        found: dict[float, float] = {}
        for rate in self.rates:
            name = f"{preset}_rate{rate:g}"
            options = ("--iterations", steps, "--lr", f"{rate:g}", "--test-size", "50")
            self.outcome(name, preset, *options)
            found[rate] = validation(self.folder / name)[-1][1]
        print(f"{preset}: validation by rate {found}", flush=True)
        rows = read_metrics(self.folder / f"{preset}_rate{self.rates[0]:g}" / "metrics.jsonl")
        best = max if any("accuracy" in row for row in rows) else min
        return best(found, key=lambda rate: found[rate])

    def final(self, preset: str, seed: int) -> dict[str, Any]:
        """The summary of the training of a preset that fills the budget."""
        rate = self.rate(preset)
        steps = str(max(1, round(self.seconds / self.pace(preset))))
        options = ("--iterations", steps, "--lr", f"{rate:g}", "--seed", str(seed))
        return {**self.outcome(f"{preset}_seed{seed}", preset, *options), "rate": rate}


def validation(run: Path) -> list[tuple[int, float]]:
    """The figure of merit at every evaluation of a run."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == "validation"]
    merit = next(m for m in ("accuracy", "bits_per_dim") if m in rows[0])
    return [(int(row["step"]), float(row[merit])) for row in rows]


def row(preset: str, summaries: Sequence[Mapping[str, Any]]) -> Row:
    """The mean over seeds; its error is over seeds too where there are several."""
    merit = next(name for name in MERITS if name in summaries[0])
    figures = [float(summary[merit]) for summary in summaries]
    over_samples = mean(float(s["best_standard_error"]) for s in summaries)
    steps = [int(summary["steps"]) for summary in summaries]
    pace = mean(float(summary["cpu_seconds_per_step"]) for summary in summaries)
    return {
        "preset": preset,
        "test": mean(figures),
        "error": over_samples,
        "over seeds": stdev(figures) if len(figures) > 1 else "",
        "rate": float(summaries[0]["rate"]),
        "steps": round(mean(steps)),
        "CPU s": mean(steps) * pace,
        "CPU s a step": pace,
        "parameters": int(summaries[0]["parameters"]),
        "largest bound": max(dict(summaries[0].get("lipschitz_bound", {})).values(), default=""),
        "round trip": float(summaries[0].get("max_roundtrip_error", 0.0)),
    }


def draw(contest: Contest, presets: Sequence[str], path: Path) -> None:
    """Validation over CPU seconds."""
    figure = new_figure(7.0, 4.5)
    axes = figure.add_subplot()
    for preset in presets:
        curve = validation(contest.folder / f"{preset}_seed0")
        pace = float(contest.final(preset, 0)["cpu_seconds_per_step"])
        axes.plot([pace * step for step, _ in curve], [v for _, v in curve], label=preset)
    axes.set_xlabel("CPU seconds")
    axes.set_ylabel("validation")
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    """Run what is not there yet, print the table, write the JSON and draw the curves."""
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="of the runs")
    options.add_argument("presets", nargs="+")
    options.add_argument("--data-root", type=Path, required=True)
    options.add_argument("--seconds", type=float, default=2700.0)
    options.add_argument("--search-seconds", type=float, default=120.0)
    options.add_argument("--rates", type=float, nargs="+", default=[2e-3, 5e-3, 1e-2])
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--set", dest="settings", action="append", default=[])
    options.add_argument("--figure", type=Path, help="draw the learning curves as PNG")
    arguments = options.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    contest = Contest(
        arguments.folder,
        arguments.data_root,
        20.0 if arguments.quick else arguments.seconds,
        10.0 if arguments.quick else arguments.search_seconds,
        tuple(arguments.rates),
        tuple(arguments.settings),
    )
    print(machine())
    rows = [
        row(preset, [contest.final(preset, seed) for seed in range(arguments.seeds)])
        for preset in arguments.presets
    ]
    tables = {"Equal CPU time": rows}
    for title, table in tables.items():
        print_table(title, table)
    write_json(arguments.out, tables)
    if arguments.figure is not None:
        draw(contest, arguments.presets, arguments.figure)


if __name__ == "__main__":
    main()
