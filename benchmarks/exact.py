"""What the exact log-determinant of a monotone block costs: two LUs and two inverses, or shared.

    python benchmarks/exact.py [--quick] [--threads 1] [--out FILE]

CPU milliseconds of a forward and a backward pass of y and log-determinant, batches of 128, float32,
in turns. `two slogdets` linearizes once more at the solution, has log|det(I ± J)| and their
gradients from `torch.linalg.slogdet`, and solves the adjoint anew: no factor serves twice. `Exact`
is what blocks do. `no log-det` is the block alone. The second table is of the matrices alone: value
and gradient by J.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from flow_core import Settings, update_lipschitz
from flow_core.blocks import Monotone
from flow_core.maps import DenseNet, LipschitzMap, SandwichNet
from flow_logdet import Estimator, Exact, Kind, LogDet
from flow_solvers import BoundMap, JacobianLinearization, Linearization
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, cpu_milliseconds, machine, parser, print_table, write_json

BATCH = 128
NETS: Mapping[str, Callable[[int], LipschitzMap]] = {
    "sandwich": lambda dim: SandwichNet(
        dim, [64, 64], lipschitz=0.99, activation="softplus", gain=0.2
    ),
    "dense": lambda dim: DenseNet(dim, growth=64, depth=2, activation="cpila", coeff=0.98),
}


@dataclass(frozen=True)
class TwoSlogdets:
    """The exact value as it comes from torch."""

    def linearize(self, bound: BoundMap, w: Tensor) -> Linearization:
        """The plain linearization."""
        return bound.linearize(w)

    def log_det(self, linearization: Linearization, kind: Kind) -> LogDet:
        """Σ c·log|det(I + s·J)|."""
        jacobian = linearization.jacobian()
        eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype)
        value = jacobian.new_zeros(len(jacobian))
        for s, c in kind.pairs:
            value = value + c * torch.linalg.slogdet(eye + s * jacobian).logabsdet  # noqa: TID251
        return LogDet(value, None, prod(linearization.point.shape[1:]))


def step(block: Monotone, x: Tensor, estimator: Estimator) -> None:
    """Forward and backward pass."""
    y, log_det = block.transform_and_log_det(x, using=Settings(estimator=estimator))
    torch.autograd.backward(y.square().sum() / 2 - log_det.sum())


def of_a_block(net: str, dim: int, rounds: int) -> Row:
    """One row."""
    torch.manual_seed(0)
    block, x = Monotone(NETS[net](dim)), torch.randn(BATCH, dim, requires_grad=True)
    update_lipschitz(block)
    found = cpu_milliseconds(
        {
            "two slogdets": lambda: step(block, x, TwoSlogdets()),
            "Exact": lambda: step(block, x, Exact()),
            "no log-det": lambda: torch.autograd.backward(block.transform(x).square().sum()),
        },
        rounds,
    )
    return {"net": net, "dim": dim, **found, "ratio": found["Exact"] / found["two slogdets"]}


def of_matrices(kind: Kind, dim: int, rounds: int) -> Row:
    """Value and gradient by J alone."""
    torch.manual_seed(0)
    matrices = (0.3 / dim**0.5 * torch.randn(BATCH, dim, dim)).requires_grad_()
    point = torch.zeros(BATCH, dim)
    bound = NETS["sandwich"](dim).bind()
    at = JacobianLinearization(bound, point, point, matrices)

    def run(estimator: Estimator) -> None:
        torch.autograd.grad(estimator.log_det(at, kind).value.sum(), matrices)

    found = cpu_milliseconds(
        {"two slogdets": lambda: run(TwoSlogdets()), "Exact": lambda: run(Exact())}, rounds
    )
    ratio = found["Exact"] / found["two slogdets"]
    return {"kind": kind.name.lower(), "dim": dim, **found, "ratio": ratio}


def main() -> None:
    """Print the tables, write the JSON."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = 7 if arguments.quick else 30
    print(machine())
    dims = (13, 30, 43)
    tables = {
        "a training step of a monotone block": [
            of_a_block(net, dim, rounds) for net in NETS for dim in dims
        ],
        "matrices alone": [of_matrices(kind, dim, rounds) for kind in Kind for dim in dims],
    }
    for title, rows in tables.items():
        print_table(title, rows)
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
