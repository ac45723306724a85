"""What runs have learnt, beside each other: real images, their reconstructions and samples.

    python benchmarks/pictures.py RUN_FOLDER... --figure FILE.png [--count 24] [--temperature 1]
                                  [--checkpoint last] [--data-root ROOT] [--out FILE]

Every RUN_FOLDER is a run of `apps/train.py image` or `glow`, a row of the picture. Runs of one set
of images show the same test images. `error` is the largest difference of an image and its
reconstruction, in [0, 1], `bits/dim` the final test of the last weights, where the run is finished.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from flow_apps.figures.canvas import new_figure, save_figure
from flow_apps.figures.images import plot_images
from flow_apps.sample_request import SampleRequest
from flow_apps.sampling import draw_sheets
from flow_apps.sheets import PANELS
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json

COLUMNS = 8


class Seen(NamedTuple):
    """A run in pictures.

    Attributes:
        name: Of its folder.
        panels: Real images, reconstructions and samples, shape (3, count, channels, height, width).
        error: Largest difference of an image and its reconstruction.
    """

    name: str
    panels: Tensor
    error: float


def seen(run: Path, request: SampleRequest) -> Seen:
    """The panels of a run; nothing is written into its folder."""
    drawn = draw_sheets(run, request)
    (numbers,) = (file for file in drawn.files if file.suffix == ".npy")
    assert drawn.reconstruction_error is not None
    return Seen(run.name, torch.from_numpy(np.load(numbers)), drawn.reconstruction_error)


def row(run: Path, pictures: Seen) -> Row:
    """What is known of the run."""
    path = run / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    return {
        "run": pictures.name,
        "error": pictures.error,
        "bits/dim": summary.get("test_bits_per_dim", ""),
        "parameters": summary.get("parameters", ""),
        "steps": summary.get("steps", ""),
    }


def draw(runs: list[Seen], path: Path) -> None:
    """A row for each run, a column for each kind of picture."""
    high = -(-runs[0].panels.shape[1] // COLUMNS)
    figure = new_figure(0.42 * COLUMNS * len(PANELS) + 0.4, (0.42 * high + 0.1) * len(runs) + 0.3)
    sheets = figure.subplots(len(runs), len(PANELS), squeeze=False)
    for line, run in zip(sheets, runs, strict=True):
        for axes, panel in zip(line, run.panels, strict=True):
            plot_images(axes, panel, COLUMNS)
        place = {"transform": line[0].transAxes, "ha": "right", "va": "center"}
        line[0].text(-0.02, 0.5, run.name, rotation=90, fontsize=8, **place)
    for axes, title in zip(sheets[0], PANELS, strict=True):
        axes.set_title(title)
    save_figure(figure, path)


def main() -> None:
    """Draw the picture, print the table, write the JSON."""
    options = parser(__doc__)
    options.add_argument("runs", type=Path, nargs="+", help="runs of image or glow")
    options.add_argument("--figure", type=Path, required=True, help="the picture, a PNG")
    options.add_argument("--count", type=int, default=24, help="images of each kind")
    options.add_argument("--temperature", type=float, default=1.0)
    options.add_argument("--checkpoint", choices=("last", "best"), default="last")
    options.add_argument("--data-root", help="where the images are now")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    with tempfile.TemporaryDirectory() as place:
        found = [
            seen(
                run,
                SampleRequest(
                    sheets=("side_by_side",),
                    count=COLUMNS if arguments.quick else arguments.count,
                    temperature=arguments.temperature,
                    checkpoint=arguments.checkpoint,
                    data_root=arguments.data_root,
                    out=Path(place) / str(number),
                ),
            )
            for number, run in enumerate(arguments.runs)
        ]
    draw(found, arguments.figure)
    rows = [row(run, pictures) for run, pictures in zip(arguments.runs, found, strict=True)]
    print_table("Runs", rows)
    write_json(arguments.out, {"runs": rows})


if __name__ == "__main__":
    main()
