"""The whole published model: loss, CPU time and memory of its first steps on fixed images.

    python benchmarks/whole_model.py --data-root ROOT [--preset cifar10-monotone] [--batch 2]
                                     [--steps 3] [--rate 1e-6] [--threads 1] [--out FILE]

ROOT has files train*.npz of real images. Every step sees the same images with the same noise and
the same probes, at one rate without a warm-up: at that of the first step of the published one, the
loss falls, at ten times as much the step of Adam goes too far. `MB` is the largest memory
of the process so far, torch included.
"""

import re
import sys
import time
from pathlib import Path

import torch
from flow_apps.experiments import find_preset
from flow_core import update_lipschitz
from flow_core.dequantization import Dequantized, bits_per_dim
from flow_data import load_npz_images

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json


def built(preset: str) -> Dequantized:
    """The distribution of a preset."""
    experiment, found = find_preset(preset)
    model = experiment.load().model(found.config)
    if not isinstance(model, Dequantized):
        raise TypeError(f"expected a preset of image densities, got {preset}")
    return model


def some_images(root: Path, count: int) -> torch.Tensor:
    """The first images of the first file."""
    files = sorted(root.glob("train*.npz"))
    if not files:
        raise FileNotFoundError(f"{root}: expected files train*.npz, got none")
    return load_npz_images(files[0]).images[:count]


def most_memory() -> float:
    """Of this process so far, in MB, as Linux tells it."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def first_steps(model: Dequantized, images: torch.Tensor, steps: int, rate: float) -> list[Row]:
    """A row for every step."""
    model.initialize(images)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.99))
    rows: list[Row] = []
    for step in range(1, steps + 1):
        torch.manual_seed(0)
        start = time.process_time()
        log_prob = model(images)
        loss = bits_per_dim(log_prob, images.shape[1:]).mean()
        torch.autograd.backward(loss)
        size = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        update_lipschitz(model)
        rows.append(
            {
                "step": step,
                "bits/dim": loss.item(),
                "gradient norm": float(size),
                "CPU s": time.process_time() - start,
                "MB": most_memory(),
            }
        )
    return rows


def main() -> None:
    """Print the table and write the JSON, where asked for."""
    options = parser(__doc__)
    options.add_argument("--data-root", type=Path, required=True)
    options.add_argument("--preset", default="cifar10-monotone")
    options.add_argument("--batch", type=int, default=2)
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--rate", type=float, default=1e-6)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    images = some_images(arguments.data_root, arguments.batch)
    steps = min(arguments.steps, 1) if arguments.quick else arguments.steps
    rows = first_steps(built(arguments.preset), images, steps, arguments.rate)
    tables = {f"{arguments.preset}, {len(images)} fixed images": rows}
    for title, table in tables.items():
        print_table(title, table)
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
