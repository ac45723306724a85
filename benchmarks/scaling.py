"""How times of flows grow with the image, the kernel and the dimension; tables and a picture.

    python benchmarks/scaling.py [--quick] [--threads 1] [--out FILE] [--figure FILE.png]

* images of 16² ... 128² and kernels of side 2 ... 11 (on 32²): a Glow of 2 blocks of 2 steps and
  couplings of width 32 on 10 images of 3 channels; milliseconds of a likelihood and of samples, for
  inverse convolutions (which are solved for a likelihood), FInC (solved for samples) and 1x1
  convolutions;
* dimension 32 ... 1024: one fully connected layer on 128 vectors, milliseconds of a training pass
  on the exact gradient and on the self-normalizing one.

CPU milliseconds, medians; the flows take turns.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from flow_core import (
    Chain,
    Conv1x1,
    Flow,
    FlowConfig,
    SelfNormLinear,
    StandardNormal,
    TrainingSurrogate,
    image_flow,
)
from flow_core.models.config import Linear
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, cpu_milliseconds, machine, parser, print_table, write_json

LINEAR: tuple[Linear, ...] = ("inverse-conv", "fincflow", "conv1x1")
SIDES = (16, 32, 64, 128)
KERNELS = (2, 3, 5, 7, 9, 11)
DIMENSIONS = (32, 64, 128, 256, 512, 1024)
IMAGES = 10
VECTORS = 128


def glow(linear: Linear, side: int, kernel_size: int) -> Flow:
    """A small Glow that is the same but for its linear layers."""
    torch.manual_seed(0)
    config = FlowConfig(
        linear=linear,
        kernel_size=kernel_size,
        block_size=2,
        actnorm=False,
        mixing="conv1x1",
        coupling_width=32,
    )
    return image_flow(config, (3, side, side))


def passes(flow: Flow, images: int) -> dict[str, Callable[[], object]]:
    """A likelihood and samples of a flow."""
    x = torch.rand(images, *flow.event_shape)
    return {"likelihood": lambda: flow.log_prob(x), "sampling": lambda: flow.sample((images,))}


def glow_row(side: int, kernel_size: int, rounds: int) -> Row:
    """All flows at one size of image and kernel."""
    functions = {
        f"{linear} {name}": function
        for linear in LINEAR
        for name, function in passes(glow(linear, side, kernel_size), IMAGES).items()
    }
    with torch.no_grad():
        for function in functions.values():
            function()
        return cpu_milliseconds(functions, rounds)


def training_pass(flow: Flow, x: torch.Tensor, *, surrogate: bool) -> None:
    """Gradients of one step, without the optimizer."""
    loss = -TrainingSurrogate(flow)(x).surrogate.mean() if surrogate else -flow.log_prob(x).mean()
    torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True)


def dimension_row(dimension: int, rounds: int) -> Row:
    """One layer, with the exact gradient and without a determinant."""
    x = torch.randn(VECTORS, dimension)
    base = StandardNormal((dimension,))
    exact = Flow(base, Chain([Conv1x1(dimension, bias=True)]))
    cheap = Flow(base, Chain([SelfNormLinear(dimension)]))
    times = cpu_milliseconds(
        {
            "exact": partial(training_pass, exact, x, surrogate=False),
            "self-normalizing": partial(training_pass, cheap, x, surrogate=True),
        },
        rounds,
    )
    return {"dimension": dimension, **times}


def draw(tables: dict[str, list[Row]], path: Path) -> None:
    """Every table as curves over its first column."""
    figure = Figure(figsize=(4.2 * len(tables), 5.2), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(tables)), tables.items(), strict=True):
        first, *names = rows[0]
        for name in names:
            style = "--" if "sampling" in name else "-"
            axes.loglog([r[first] for r in rows], [r[name] for r in rows], style, label=name)
        ticks = [r[first] for r in rows]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.tick_params(which="minor", bottom=False, labelbottom=False)
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title)
        axes.set_xlabel(first)
        axes.set_ylabel("CPU milliseconds")
    for axes in figure.axes:
        axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(0, -0.2))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the tables, write them as JSON and draw them, where asked for."""
    options = parser(__doc__)
    options.add_argument("--figure", type=Path, help="draw the tables as PNG")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = 3 if arguments.quick else 7
    sides, kernels = (SIDES[:2], KERNELS[:2]) if arguments.quick else (SIDES, KERNELS)
    dimensions = DIMENSIONS[:3] if arguments.quick else DIMENSIONS
    tables: dict[str, list[Row]] = {
        "images": [{"side": s, **glow_row(s, 3, rounds)} for s in sides],
        "kernels": [{"kernel": k, **glow_row(32, k, rounds)} for k in kernels],
        "dimensions": [dimension_row(d, 3 * rounds) for d in dimensions],
    }
    print_table("machine", [machine()])
    for title, rows in tables.items():
        print_table(title, rows)
    write_json(arguments.out, tables)
    if arguments.figure is not None:
        draw(tables, arguments.figure)


if __name__ == "__main__":
    main()
