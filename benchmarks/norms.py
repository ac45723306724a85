"""How well spectral norms of convolutions are followed while weights are trained, and at what cost.

    python benchmarks/norms.py [--quick] [--threads 1] [--out FILE]

A flow of four residual blocks (DenseNet, growth 8, depth 2) is trained on 3x8x8 images that are
coarse pixels enlarged, by Adam with learning rates of 5e-3 and 2e-2, in the loop of the README.
Every method follows the recorded weights of its 3x3 convolutions from one start. `products` are
those with A and with its adjoint, `low by` is how far the estimate is below the certified norm, and
`certificate` the largest bound of a map, of 0.922 with exact norms, after any step.
"""

import copy
import sys
import time
from pathlib import Path
from statistics import mean, median

import torch
from flow_core import (
    ActNorm,
    Chain,
    DenseNet,
    Flow,
    Residual,
    StandardNormal,
    initialize,
    lipschitz_certificate,
    update_lipschitz,
)
from flow_core.lipschitz import (
    GolubKahan,
    LipschitzConv2d,
    PowerIteration,
    SpectralMethod,
    conv_norm_exact,
    lipschitz_layers,
)
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json

METHODS: dict[str, SpectralMethod] = {
    "power, 5": PowerIteration(5, 0.0),
    "power, 12": PowerIteration(12, 0.0),
    "power, published stop": PowerIteration(),
    "Golub-Kahan, 4": GolubKahan(4),
    "Golub-Kahan, 8": GolubKahan(8),
    "Golub-Kahan, 12": GolubKahan(12),
    "Golub-Kahan, 16": GolubKahan(16),
}
State = dict[str, Tensor]


def images(count: int) -> Tensor:
    """Enlarged coarse pixels with a little noise."""
    coarse = torch.randn(count, 3, 2, 2)
    enlarged = functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    return enlarged + 0.05 * torch.randn_like(enlarged)


def made() -> Flow:
    """The flow, with statistics of data."""
    torch.manual_seed(0)
    nets = [DenseNet(3, growth=8, depth=2, map_size=(8, 8)) for _ in range(4)]
    layers = [layer for net in nets for layer in (ActNorm(3), Residual(net))]
    flow = Flow(StandardNormal((3, 8, 8)), Chain(layers))
    initialize(flow, images(64))
    return flow


def recorded(flow: Flow, rate: float, steps: int) -> list[State]:
    """Parameters after every step of a training."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=rate)
    states: list[State] = []
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(-flow(images(32)).mean())
        optimizer.step()
        update_lipschitz(flow)
        states.append({n: p.detach().clone() for n, p in flow.named_parameters()})
    return states


def convolutions(flow: Flow) -> list[LipschitzConv2d]:
    """Those whose norms are followed, not known."""
    layers = [layer for layer in lipschitz_layers(flow) if isinstance(layer, LipschitzConv2d)]
    return [layer for layer in layers if not layer.is_matrix]


@torch.no_grad()
def row(name: str, flow: Flow, states: list[State]) -> Row:
    """One method on all weights."""
    for layer in convolutions(flow):
        layer.spectral = METHODS[name]
    errors, bounds, seconds = [], [], []
    for state in states:
        flow.load_state_dict(state, strict=False)
        start = time.process_time()
        update_lipschitz(flow)
        seconds.append(time.process_time() - start)
        for layer in convolutions(flow):
            true = conv_norm_exact(layer.weight, layer.map_size)
            errors.append(1 - float(layer.norm_estimate()) / true)
        bounds.append(max(lipschitz_certificate(flow).values()))
    return {
        "method": name,
        "CPU ms": 1e3 * median(seconds),
        "low by, mean": mean(errors),
        "low by, at most": max(errors),
        "above 1 %": mean(e > 0.01 for e in errors),
        "certificate": max(bounds),
        "steps at 1 or above": sum(b >= 1 for b in bounds),
    }


def main() -> None:
    """Print a table for each learning rate, write the JSON."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    tables: dict[str, list[Row]] = {}
    for rate in (5e-3, 2e-2):
        flow = made()
        states = recorded(copy.deepcopy(flow), rate, 40 if arguments.quick else 200)
        title = f"learning rate {rate}"
        tables[title] = [row(name, copy.deepcopy(flow), states) for name in METHODS]
        print_table(title, tables[title])
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
