"""One-dimensional fits side by side: a table of finished runs, and a picture like the paper's.

    python benchmarks/fits.py RUN_FOLDER... [--out FILE] [--figure FILE.png]

Every RUN_FOLDER is a finished `uv run apps/train.py fit1d PRESET`. Its panel shows the function,
the fit of the last weights and their difference, as Fig. 4 of Ahn et al. 2022 (Monotone Flows) does
for residual blocks without and with ActNorm, implicit blocks and monotone blocks. `mse` is over
10,000 fresh points, `error` its standard error, `last20` the mean of the last 20 tests.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from flow_apps.errors import ConfigError
from flow_apps.experiments.fit1d.config import Fit1dConfig
from flow_apps.experiments.fit1d.tests import fitted
from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.figures.fit import plot_fit
from flow_apps.loading import load_run
from flow_core.distributions import Flow
from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json


def row(folder: Path) -> Row:
    """The result of a run, from its summary."""
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "run": folder.name,
        "mse": summary["test_mse"],
        "error": summary["standard_error"],
        "last20": summary["test_mse_last20"],
        "round trip": summary["max_roundtrip_error"],
        "CPU ms per step": 1e3 * summary["cpu_seconds_per_step"],
        "parameters": summary["parameters"],
        "steps": summary["steps"],
    }


@torch.no_grad()
def panel(folder: Path, above: Axes, below: Axes) -> None:
    """The fit of the last weights of a run."""
    run = load_run(folder)
    if not (isinstance(run.config, Fit1dConfig) and isinstance(run.model, Flow)):
        raise ConfigError(f"{folder}: expected a run of fit1d, got {run.experiment.name}")
    plot_fit(above, below, *fitted(run.config, run.model))
    above.set_title(folder.name)


def draw(folders: Sequence[Path], path: Path) -> None:
    """A panel per run."""
    figure = new_figure(3.6 * len(folders), 4.5)
    above, below = figure.subplots(
        2, len(folders), sharex=True, height_ratios=[3, 1], squeeze=False
    )
    for folder, *axes in zip(folders, above, below, strict=True):
        panel(folder, *axes)
    save_figure(figure, path)


def main() -> None:
    """Print the table, write the JSON and draw the picture, where asked for."""
    options = parser(__doc__)
    options.add_argument("runs", type=Path, nargs="+", help="finished runs of fit1d")
    options.add_argument("--figure", type=Path, help="draw the fits as PNG")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    tables = {"Fits, fresh points": [row(folder) for folder in arguments.runs]}
    for title, rows in tables.items():
        print_table(title, rows)
    write_json(arguments.out, tables)
    if arguments.figure is not None:
        draw(arguments.runs, arguments.figure)


if __name__ == "__main__":
    main()
