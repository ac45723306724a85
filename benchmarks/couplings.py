"""Affine couplings on two values beside those of the normflows package.

    uv pip install normflows                    # of no use for anything else here
    python benchmarks/couplings.py [--quick] [--threads 1] [--out FILE]

Eight couplings whose conditioners are three linear layers with ReLU between them, the values
exchanged after each, on a standard normal base. CPU milliseconds, medians of calls that take turns:
of a log-likelihood with its backward pass, and of as many samples. The scales of normflows are e^r.
"bounded" has the default of this project, e^(2·tanh(r/2)), which is two operations more.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from flow_core import (
    AffineCoupling,
    Chain,
    Flow,
    Permutation,
    ScaleFunction,
    StandardNormal,
    dense_conditioner,
)
from flow_core.bijection import Bijection
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, cpu_milliseconds, machine, parser, print_table, write_json

COUPLINGS = 8
CASES = ((32, 500), (32, 1000), (64, 500), (64, 1000))


class ExpScale(ScaleFunction):
    """s = e^r, which has no bound."""

    def log_scale(self, raw: Tensor) -> Tensor:
        """The number itself."""
        return raw


def ours(width: int, scale: ScaleFunction | None) -> Flow:
    """The couplings of this project."""
    layers: list[Bijection] = []
    for _ in range(COUPLINGS):
        layers += [AffineCoupling(dense_conditioner(1, 2, width), scale), Permutation.reversal(2)]
    return Flow(StandardNormal((2,)), Chain(layers))


class Theirs(Protocol):
    """What is called of a flow of normflows."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-densities."""
        ...

    def sample(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """Samples and their log-densities."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""
        ...


def theirs(width: int) -> Theirs:
    """The same of normflows."""
    normflows: Any = importlib.import_module("normflows")
    flows: list[nn.Module] = []
    for _ in range(COUPLINGS):
        mlp = normflows.nets.MLP([1, width, width, 2], init_zeros=True)
        flows += [normflows.flows.AffineCouplingBlock(mlp), normflows.flows.Permute(2, mode="swap")]
    base = normflows.distributions.base.DiagGaussian(2, trainable=False)
    model: Theirs = normflows.NormalizingFlow(base, flows)
    return model


def trained(model: Theirs | Flow, x: Tensor) -> None:
    """Gradients of one step, without the optimizer."""
    torch.autograd.grad(-model.log_prob(x).mean(), list(model.parameters()))


@torch.no_grad()
def sampled(model: Theirs, count: int) -> None:
    """Samples without a graph, as ours are."""
    model.sample(count)


def row(width: int, count: int, rounds: int) -> Row:
    """Times of the three flows."""
    x = torch.randn(count, 2)
    bounded, free, other = ours(width, None), ours(width, ExpScale()), theirs(width)
    training: dict[str, Callable[[], object]] = {
        "normflows": partial(trained, other, x),
        "ours": partial(trained, free, x),
        "ours, bounded": partial(trained, bounded, x),
    }
    sampling: dict[str, Callable[[], object]] = {
        "normflows": partial(sampled, other, count),
        "ours": partial(free.sample, (count,)),
        "ours, bounded": partial(bounded.sample, (count,)),
    }
    result: dict[str, str | int | float] = {"width": width, "count": count}
    for what, functions in (("training", training), ("sampling", sampling)):
        cpu_milliseconds(functions, 20)  # the first calls set things up
        times = cpu_milliseconds(functions, rounds)
        reference = times["normflows"]
        result[f"{what}: normflows ms"] = reference
        for name in ("ours", "ours, bounded"):
            result[f"{what}: {name} / normflows"] = times[name] / reference
    return result


def main() -> None:
    """Print the table, and write it as JSON where asked for."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    try:
        theirs(1)
    except ImportError:
        sys.exit("normflows is missing: uv pip install normflows, then python, not uv run")
    cases = CASES[:1] if arguments.quick else CASES
    rows = [row(width, count, 100 if arguments.quick else 300) for width, count in cases]
    print_table("machine", [machine()])
    print_table("CPU time against that of normflows", rows)
    write_json(arguments.out, {"couplings": rows})


if __name__ == "__main__":
    main()
