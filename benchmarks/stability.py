"""What the condition number of a flow of images costs, in full and in a bracket, on one thread.

    python benchmarks/stability.py [--quick] [--threads 1] [--out FILE]

The flow is that of the INN classifiers of Behrmann et al. 2021: three levels of a squeeze and
sixteen steps of [ActNorm, 1x1 convolution, affine coupling of width 128] on images of 3x32x32, no
channel leaves. Its weights are moved away from where they start, so that it stretches. `dense` is
the whole Jacobian of 3072 rows in float64 and its singular values, `Lanczos` the bracket that fails
with the stated probability. `--quick` has two steps a level and images of 3x16x16.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from flow_core import ActNorm, AffineCoupling, Bijection, Chain, Conv1x1, Squeeze, stability_report
from flow_core.diagnostics import (
    DenseSpectrum,
    LanczosSpectrum,
    SingularValues,
    Spectrum,
    StabilityPart,
)
from flow_core.layers import SigmoidScale
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, parser, print_table, write_json

Result = TypeVar("Result")
SPECTRA: dict[str, Spectrum] = {
    "dense, 64 rows a pass": DenseSpectrum(64),
    "Lanczos, 1 %, 1e-6": LanczosSpectrum(0.01, 1e-6),
    "Lanczos, 10 %, 1e-6": LanczosSpectrum(0.1, 1e-6),
}


def classifier(depth: int, side: int) -> tuple[Chain, Tensor]:
    """The flow, and an image."""
    torch.manual_seed(0)
    layers: list[Bijection] = []
    for level in range(3):
        channels = 3 * 4 ** (level + 1)
        layers.append(Squeeze(2))
        for _ in range(depth):
            coupling = AffineCoupling.convolutional(channels, 128, SigmoidScale())
            for p in coupling.parameters():
                nn.init.normal_(p, std=0.03)
            layers += [ActNorm(channels), Conv1x1(channels), coupling]
    flow = Chain(layers)
    images = torch.randn(8, 3, side, side)
    flow.initialize(images)
    return flow, images[:1]


def timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """What comes of it, with the seconds of the processor and of the clock."""
    start, clock = time.process_time(), time.perf_counter()
    result = work()
    return result, time.process_time() - start, time.perf_counter() - clock


def measured(flow: Chain, image: Tensor, spectrum: Spectrum) -> SingularValues:
    """Of the transform alone."""
    parts: tuple[StabilityPart, ...] = (
        "reconstruction",
        "lipschitz",
        "log-det",
        "bounds",
        "gradients",
    )
    report = stability_report(
        flow, image, spectrum=spectrum, directions=("transform",), leave_out=parts
    )
    return report.singular_values["transform"][0]


def main() -> None:
    options = parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    flow, image = classifier(*((2, 16) if options.quick else (16, 32)))
    rows: list[Row] = []
    for name, spectrum in SPECTRA.items():
        found, cpu, wall = timed(partial(measured, flow, image, spectrum))
        print(f"{name}: {cpu:.0f} s", flush=True)
        rows.append(
            {
                "method": name,
                "dimension": image.numel(),
                "condition number": str(found.condition),
                "largest": str(found.largest),
                "smallest": str(found.smallest),
                "cpu s": round(cpu, 1),
                "wall s": round(wall, 1),
            }
        )
    print_table("Condition number of the Jacobian of one image", rows)
    write_json(options.out, {"condition": rows})


if __name__ == "__main__":
    main()
