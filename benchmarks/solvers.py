"""Solvers on trained blocks: evaluations, worst residual and CPU time against other codes.

    python benchmarks/solvers.py [--quick] [--threads 1] [--rounds 5] [--out FILE]

Forward: w + G(w) = √2·x. Adjoint: (I + Jᵀ) v = g, also with g scaled. `calls` are batched
evaluations of G or products with Jᵀ, `per sample` is their number for a mean sample (solvers may
drop solved ones), `residual` is that of the worst sample in float64: rms(r)/(rms x + rms w + rms
G(w)), and |r|/|g| for the adjoint; `missed` counts samples above the tolerance of 1e-6 by more than
a tenth. "published" solvers are re-implemented with the settings of their codes; torchdeq runs with
its defaults and with a relative tolerance of 1e-6.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from flow_solvers import (
    Adjoint,
    AdjointSolver,
    Anderson,
    BoundMap,
    Broyden,
    Gmres,
    Linearization,
    Picard,
    Solver,
    Tolerance,
    default_adjoint,
    default_solver,
    resolvent,
)
from torch import Tensor
from torchdeq.solver.anderson import anderson_solver
from torchdeq.solver.broyden import broyden_solver

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.counting import Count, CountedLinearization, CountedMap
from benchmarks.fixtures import IMAGES, PLANE, Block, load_block
from benchmarks.published_solvers import (
    implicit_flow_broyden,
    implicit_flow_forward,
    monotone_flow_anderson,
)
from benchmarks.tables import Row, cpu_milliseconds, machine, parser, print_table, write_json

Forward = Callable[[BoundMap, Tensor], Tensor]
Pullback = Callable[[Linearization, Tensor], Tensor]

STRESS = 0.99
MISSED = 1.1e-6
SCALES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4)
DEQ_STRICT = {"tol": 1e-6, "stop_mode": "rel", "max_iter": 300}


def ours(solver: Solver) -> Forward:
    """A solver of flow-solvers with its default tolerance."""
    return lambda bound, x: solver.solve(bound, x, x, Tolerance()).value


def published_anderson(bound: BoundMap, x: Tensor) -> Tensor:
    """Monotone Flows: eps 1e-6, 2000 steps."""
    return monotone_flow_anderson(lambda w: x - bound(w), x, 1e-6, 2000)


def published_broyden(bound: BoundMap, x: Tensor) -> Tensor:
    """Implicit Normalizing Flows: eps 1e-6, 30 steps."""
    return implicit_flow_forward(bound, x)


def torchdeq_forward(
    solver: Callable[..., tuple[Tensor, object, object]], settings: Mapping[str, object]
) -> Forward:
    """A solver of torchdeq."""

    def solve(bound: BoundMap, x: Tensor) -> Tensor:
        def image(w: Tensor) -> Tensor:
            return x - bound(w)

        return solver(image, x, **settings)[0]

    return solve


def forward_methods(dim: int) -> dict[str, Forward]:
    """Everything that solves w + G(w) = x."""
    return {
        "ours: default": ours(default_solver(dim)),
        "ours: Anderson(5)": ours(Anderson()),
        "ours: Broyden(10)": ours(Broyden()),
        "Picard": ours(Picard()),
        "published Anderson-1": published_anderson,
        "published Broyden": published_broyden,
        "torchdeq Anderson": torchdeq_forward(anderson_solver, {}),
        "torchdeq Anderson 1e-6": torchdeq_forward(anderson_solver, DEQ_STRICT),
        "torchdeq Broyden": torchdeq_forward(broyden_solver, {}),
        "torchdeq Broyden 1e-6": torchdeq_forward(broyden_solver, DEQ_STRICT | {"max_iter": 60}),
    }


def ours_adjoint(solver: AdjointSolver) -> Pullback:
    """A linear solver of flow-solvers with its default tolerance."""
    return lambda linearization, g: solver.solve(Adjoint(linearization), g).value


def picard_adjoint(linearization: Linearization, g: Tensor) -> Tensor:
    """V ← g - Jᵀv until |step| ≤ 1e-6·|g| for every sample, at most 1000 times."""
    v, target = g, 1e-6 * g.flatten(1).norm(dim=1)
    for _ in range(1000):
        new = g - linearization.vjp(v)
        done = bool(((new - v).flatten(1).norm(dim=1) <= target).all())
        v = new
        if done:
            break
    return v


def published_anderson_adjoint(linearization: Linearization, g: Tensor) -> Tensor:
    """Monotone Flows: eps 1e-9, 100 steps."""
    return monotone_flow_anderson(lambda v: g - linearization.vjp(v), g, 1e-9, 100)


def published_broyden_adjoint(linearization: Linearization, g: Tensor) -> Tensor:
    """Implicit Normalizing Flows: eps 1e-10, 30 steps."""
    return implicit_flow_broyden(lambda v: v + linearization.vjp(v) - g, g, 1e-10)[0]


def torchdeq_adjoint(
    solver: Callable[..., tuple[Tensor, object, object]], settings: Mapping[str, object]
) -> Pullback:
    """A solver of torchdeq on v = g - Jᵀv."""

    def solve(at: Linearization, g: Tensor) -> Tensor:
        def image(v: Tensor) -> Tensor:
            return g - at.vjp(v)

        return solver(image, g, **settings)[0]

    return solve


def adjoint_methods(dim: int) -> dict[str, Pullback]:
    """Everything that solves (I + Jᵀ) v = g."""
    return {
        "ours: default": ours_adjoint(default_adjoint(dim)),
        "ours: GMRES(10)": ours_adjoint(Gmres(10)),
        "Picard": picard_adjoint,
        "published Anderson-1": published_anderson_adjoint,
        "published Broyden": published_broyden_adjoint,
        "torchdeq Anderson": torchdeq_adjoint(anderson_solver, {}),
        "torchdeq Anderson 1e-6": torchdeq_adjoint(anderson_solver, DEQ_STRICT),
        "torchdeq Broyden 1e-6": torchdeq_adjoint(broyden_solver, DEQ_STRICT | {"max_iter": 60}),
    }


def forward_residual(block: Block, w: Tensor) -> Tensor:
    """rms(x - w - G(w)) / (rms x + rms w + rms G(w)) per sample in float64."""
    exact, w = block.double(), w.double()
    image = exact.bound(w)
    return rms(exact.rhs - w - image) / (rms(exact.rhs) + rms(w) + rms(image))


def rms(t: Tensor) -> Tensor:
    """Root mean square per sample."""
    result: Tensor = t.flatten(1).square().mean(1).sqrt()
    return result


def relative(difference: Tensor, to: Tensor) -> Tensor:
    """Ratio of norms per sample."""
    ratio: Tensor = difference.flatten(1).norm(dim=1) / to.flatten(1).norm(dim=1)
    return ratio


def quality(residual: Tensor) -> dict[str, str | int | float]:
    """The worst sample, and how many miss the tolerance."""
    missed = int((~(residual <= MISSED)).sum())
    worst = float("nan") if bool(residual.isnan().any()) else float(residual.max())
    return {"residual": worst, "missed": missed}


def cost(count: Count, batch: int) -> dict[str, str | int | float]:
    """Depth and work."""
    return {"calls": count.calls, "per sample": count.rows / batch}


def forward_rows(name: str, block: Block, rounds: int) -> list[Row]:
    """One row per solver."""
    values: dict[str, Tensor] = {}
    counts: dict[str, Count] = {}

    def run(method: str, solve: Forward) -> None:
        counts[method] = Count()
        values[method] = solve(CountedMap(block.bound, counts[method]), block.rhs)

    methods = forward_methods(block.dim)
    times = cpu_milliseconds({m: partial(run, m, s) for m, s in methods.items()}, rounds)
    return [
        {"block": name, "solver": method}
        | cost(counts[method], len(block.rhs))
        | quality(forward_residual(block, values[method]))
        | {"CPU ms": times[method]}
        for method in methods
    ]


class AdjointProblem:
    """A block at its solutions, a random cotangent, and the solution in float64."""

    def __init__(self, block: Block) -> None:
        point = resolvent(block.bound, block.rhs).value
        generator = torch.Generator().manual_seed(1)
        self.linearization: Linearization = block.bound.linearize(point)
        self.exact: Linearization = block.double().bound.linearize(point.double())
        self.g = torch.randn(point.shape, generator=generator, dtype=point.dtype)
        reference = Gmres(rtol=1e-12, budget=2000)
        self.solution = reference.solve(Adjoint(self.exact), self.g.double()).value

    def solve(self, solve: Pullback, scale: float) -> tuple[Tensor, Count]:
        """The solution for the cotangent scale·g, divided by the scale, and its cost."""
        counted = CountedLinearization(self.linearization)
        return solve(counted, scale * self.g).double() / scale, counted.count

    def row(self, v: Tensor, count: Count) -> dict[str, str | int | float]:
        """Cost and quality of a solution."""
        g = self.g.double()
        residual = relative(g - v - self.exact.vjp(v), g)
        error = float(relative(v - self.solution, self.solution).max())
        return cost(count, len(v)) | quality(residual) | {"error": error}


def adjoint_rows(name: str, block: Block, rounds: int) -> list[Row]:
    """One row per solver."""
    methods, problem = adjoint_methods(block.dim), AdjointProblem(block)
    results: dict[str, tuple[Tensor, Count]] = {}

    def run(method: str, solve: Pullback) -> None:
        results[method] = problem.solve(solve, 1.0)

    times = cpu_milliseconds({m: partial(run, m, s) for m, s in methods.items()}, rounds)
    return [
        {"block": name, "solver": method}
        | problem.row(*results[method])
        | {"CPU ms": times[method]}
        for method in methods
    ]


def scale_rows(name: str, block: Block) -> list[Row]:
    """Products and worst residual of every solver, for cotangents of every size."""
    problem = AdjointProblem(block)
    rows: list[Row] = []
    for method, solve in adjoint_methods(block.dim).items():
        row: dict[str, str | int | float] = {"block": name, "solver": method}
        for scale in SCALES:
            figures = problem.row(*problem.solve(solve, scale))
            row[f"{scale:.0e}"] = f"{figures['calls']} @ {figures['residual']:.0e}"
        rows.append(row)
    return rows


def cases(quick: bool) -> dict[str, Block]:
    """The blocks as they are, and scaled to the largest sampled norm `STRESS`."""
    names = (PLANE[3], IMAGES[2]) if quick else (*PLANE, *IMAGES)
    blocks = {name: load_block(name) for name in names}
    return blocks | {f"{name} {STRESS}": b.stressed(STRESS) for name, b in blocks.items()}


@torch.no_grad()
def main() -> None:
    """Run everything, print the tables, write the JSON."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = 1 if arguments.quick else arguments.rounds
    print(machine())
    tables: dict[str, list[Row]] = {"forward": [], "adjoint": [], "adjoint by scale": []}
    for name, block in cases(arguments.quick).items():
        tables["forward"] += forward_rows(name, block, rounds)
        tables["adjoint"] += adjoint_rows(name, block, rounds)
        print(f"{name} done", file=sys.stderr, flush=True)
        write_json(arguments.out, tables)
    for name in (PLANE[3], IMAGES[2]):
        tables["adjoint by scale"] += scale_rows(name, load_block(name))
    for title, rows in tables.items():
        print_table(title, rows)
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
