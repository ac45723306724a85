"""How much of its certified Lipschitz constant every map of a trained flow uses.

    python benchmarks/usage.py RUN_FOLDER... [--points 2000] [--out FILE]

Every RUN_FOLDER is a finished run of `apps/train.py toy2d`. `largest` and `median` are of ‖J‖₂ of a
map at the points where its block solves or evaluates it, of fresh points of the density.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.loading import load_run
from flow_core import Chain, Flow, Monotone, Residual
from flow_core.blocks.monotone import SQRT2
from flow_data.toy import sample_toy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json


@torch.no_grad()
def rows(folder: Path, count: int) -> Iterator[Row]:
    """One per block."""
    run = load_run(folder)
    chain = run.model.bijection if isinstance(run.model, Flow) else None
    if not (isinstance(run.config, Toy2dConfig) and isinstance(chain, Chain)):
        raise TypeError(f"{folder}: expected a run of toy2d")
    x = sample_toy(run.config.density, count, generator=torch.Generator().manual_seed(3))
    for number, layer in enumerate(chain):
        y = layer.transform(x)
        if isinstance(layer, Residual | Monotone):
            at = x if isinstance(layer, Residual) else (x + y) / SQRT2
            norms = torch.linalg.matrix_norm(layer.g.bind().linearize(at).jacobian(), 2)
            bound = layer.g.certificate()
            yield {
                "run": folder.name,
                "block": number,
                "certificate": bound,
                "largest": float(norms.max()),
                "median": float(norms.median()),
                "used": float(norms.max()) / bound,
            }
        x = y


def main() -> None:
    """Print the table, write the JSON."""
    options = parser(__doc__)
    options.add_argument("runs", type=Path, nargs="+", help="finished runs of toy2d")
    options.add_argument("--points", type=int, default=2000)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    count = 200 if arguments.quick else arguments.points
    found = [row for folder in arguments.runs for row in rows(folder, count)]
    print_table("Norms of Jacobians beside certificates", found)
    write_json(arguments.out, {"norms": found})


if __name__ == "__main__":
    main()
