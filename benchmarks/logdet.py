"""Log-det estimators on trained blocks: variance against products, for value and gradient; bias.

    python benchmarks/logdet.py [--quick] [--threads 1] [--out FILE]

Target: log det(I - J) - log det(I + J) on crops of the image blocks (192 numbers), J in float64 as
a matrix, as trained and scaled to a norm of 0.8 and 0.95.

value     Variance over many probes, relative to that of one normal probe with the infinite series,
          2·‖sym f(J)‖²; times the products with J; and how many times lower that is than for the
          best published estimator. Products of roulette are mean ones; the length is drawn per
          sample here, in the codes once for a batch. `bias` is the mean error in nats, with its
          standard error.
gradient  Error of one estimate of the gradient by all weights for one sample, relative to the norm
          of the exact gradient; its square times the products, and the gain. `of their mean` is
          the error of the mean of all estimates, and what it is without bias.
krylov    Error of ‖ε‖²[f(H)]₁₁ against εᵀf(J)ε after some steps, in nats, against its bound.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flow_core.maps import DenseLinearization
from flow_core.maps.linearizations import jacobian_by_products
from flow_logdet import (
    Diluted,
    Estimator,
    Exact,
    Fixed,
    Gaussian,
    Geometric,
    Kind,
    Krylov,
    Poisson,
    Rademacher,
    Roulette,
    default_estimator,
    published_estimator,
)
from flow_solvers import Index, resolvent
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fixtures import IMAGES, Block, load_block
from benchmarks.tables import Row, machine, parser, print_table, write_json

KIND = Kind.MONOTONE
NORMS = (None, 0.8, 0.95)
STEPS = (3, 4, 6, 8, 10)
DILUTED_SHARE = 10
PUBLISHED_GRADIENTS = ("residual-flow-training", "residual-flow-training-long")


@dataclass(frozen=True)
class LinearMap:
    """G(w) = J w for one matrix, as a bound map that is its own linearization at every point."""

    matrix: Tensor
    part: Tensor
    point: Tensor

    @property
    def bound(self) -> "LinearMap":
        """The map itself."""
        return self

    @property
    def value(self) -> Tensor:
        """G(point)."""
        return self(self.point)

    def __call__(self, w: Tensor) -> Tensor:
        """J w."""
        return _times(w, self.matrix.mT)

    def linearize(self, w: Tensor) -> "LinearMap":
        """The map at another point."""
        return replace(self, point=w)

    def jvp(self, tangent: Tensor) -> Tensor:
        """J t."""
        return _times(tangent, self.matrix.mT)

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Jᵀ g."""
        return _times(cotangent, self.matrix)

    def jacobian(self) -> Tensor:
        """J for every sample."""
        return self.matrix.expand(len(self.point), *self.matrix.shape)

    def select(self, index: Index) -> "LinearMap":
        """The map for a subset of the batch."""
        return replace(self, point=self.point[index])

    def tensors(self) -> tuple[Tensor, ...]:
        """J and its first-order part."""
        return self.matrix, self.part

    def with_tensors(self, tensors: Sequence[Tensor]) -> "LinearMap":
        """Another matrix."""
        matrix, part = tensors
        return LinearMap(matrix, part, self.point)

    def __neg__(self) -> "LinearMap":
        """The map -G."""
        return replace(self, matrix=-self.matrix, part=-self.part)

    def first_order(self) -> "LinearPart":
        """J₁."""
        return LinearPart(self.part, len(self.point))

    def for_samples(self, count: int) -> "LinearMap":
        """The map for a batch of that size."""
        return replace(self, point=self.point[:1].expand(count, *self.point.shape[1:]))

    def scaled(self, factor: float) -> "LinearMap":
        """The map factor·G."""
        return replace(self, matrix=factor * self.matrix, part=factor * self.part)


@dataclass(frozen=True)
class LinearPart:
    """J₁ with its trace."""

    matrix: Tensor
    batch: int

    @property
    def trace(self) -> Tensor:
        """tr J₁ per sample."""
        return self.matrix.trace().expand(self.batch)

    def jvp(self, tangent: Tensor) -> Tensor:
        """J₁ t."""
        return _times(tangent, self.matrix.mT)


def _times(vectors: Tensor, matrix: Tensor) -> Tensor:
    return (vectors.flatten(-3) @ matrix).view(vectors.shape)


def crop(name: str) -> DenseLinearization:
    """An image block on a crop of 192 numbers, linearized at its solution in float64."""
    block = load_block(name).double()
    side = 8 if block.rhs.shape[1] == 3 else 4
    small = Block(block.bound, block.rhs[:1, :, 4 : 4 + side, 4 : 4 + side])
    point = resolvent(small.bound, small.rhs).value
    linearization = small.bound.linearize(point)
    assert isinstance(linearization, DenseLinearization)
    return linearization


def as_matrix(linearization: DenseLinearization) -> LinearMap:
    """J and J₁ as matrices."""
    part = jacobian_by_products(linearization.first_order().jvp, linearization.point)
    return LinearMap(linearization.jacobian()[0], part[0], linearization.point)


def at_norms(matrix: LinearMap, norms: Sequence[float | None]) -> dict[float, LinearMap]:
    """The map as it is and scaled, by its norm."""
    norm = float(torch.linalg.matrix_norm(matrix.matrix, 2))
    targets = [norm if target is None else target for target in norms]
    return {target: matrix.scaled(target / norm) for target in targets}


def exact_function(matrix: Tensor) -> Tensor:
    """The matrix f(J)."""
    values, vectors = torch.linalg.eig(matrix)
    image = torch.log((1 - values) / (1 + values))
    result: Tensor = torch.linalg.solve(vectors.mT, (vectors * image).mT).mT.real
    return result


def published_values() -> dict[str, Estimator]:
    """The unrolled series of the published codes with a length per sample."""
    poisson = Roulette(Poisson(2.0), exact_terms=10, probe=Gaussian())
    chosen: dict[str, Estimator] = {
        "published geometric, 2 exact": published_estimator("residual-flow-geometric"),
        "published Poisson, 2 exact": replace(poisson, exact_terms=2),
        "published Poisson, 10 exact": poisson,
        "published evaluation, 20 exact": published_estimator("residual-flow-evaluation"),
    }
    return {
        name: replace(e, per_sample=True) for name, e in chosen.items() if isinstance(e, Roulette)
    }


def value_estimators() -> dict[str, Estimator]:
    """What estimates values, published ones first."""
    return published_values() | {
        "ours: training default": default_estimator(192, training=True),
        "  without control variate": Krylov(8, control_variate=False),
        "ours: evaluation default": default_estimator(192, training=False),
        "  one diluted probe": Krylov(10, probe=Diluted(), tolerance=1e-5, control_variate=False),
    }


def mean_products(estimator: Estimator, counted: int) -> float:
    """Products of one estimate; of roulette, those of a mean length."""
    if isinstance(estimator, Roulette):
        length = estimator.length
        return estimator.exact_terms + (1 / length.p if isinstance(length, Geometric) else 2.0)
    return float(counted)


def is_diluted(estimator: Estimator) -> bool:
    """Whether an estimate takes many vectors."""
    return isinstance(estimator, Krylov) and isinstance(estimator.probe, Diluted)


def value_rows(block: str, norm: float, matrix: LinearMap, samples: int) -> list[Row]:
    """One row per estimator."""
    function = exact_function(matrix.matrix)
    exact = float(function.trace())
    unit = 2 * float(((function + function.mT) / 2).square().sum())
    rows: list[dict[str, str | int | float]] = []
    for name, estimator in value_estimators().items():
        count = max(samples // DILUTED_SHARE, 20) if is_diluted(estimator) else samples
        torch.manual_seed(0)
        result = estimator.log_det(matrix.for_samples(count), KIND)
        errors = result.value - exact
        variance = float(errors.square().mean()) / unit
        products = mean_products(estimator, result.products)
        bias = f"{float(errors.mean()):+.3f} ± {float(errors.std()) / count**0.5:.3f}"
        row: dict[str, str | int | float] = {"block": block, "norm": norm, "estimator": name}
        row |= {"variance": variance, "products": products, "var x prod": variance * products}
        rows.append(row | {"bias": bias})
    return with_gain(rows, "var x prod")


def with_gain(rows: list[dict[str, str | int | float]], key: str) -> list[Row]:
    """Add how many times lower `key` is than in the best row of a published estimator."""
    published = [float(r[key]) for r in rows if str(r["estimator"]).startswith("published")]
    return [row | {"gain": min(published) / float(row[key])} for row in rows]


def krylov_rows(block: str, norm: float, matrix: LinearMap, samples: int) -> list[Row]:
    """Error of the quadrature for the same probes, by number of steps."""
    function, batch = exact_function(matrix.matrix), matrix.for_samples(samples)
    torch.manual_seed(0)
    probes = Rademacher().draw(batch.point, 1)[:, 0]
    rows_of_probes = probes[0].flatten(1)
    forms = ((rows_of_probes @ function) * rows_of_probes).sum(1)
    row: dict[str, str | int | float] = {"block": block, "norm": norm}
    for steps in STEPS:
        estimator = Krylov(steps, probe=Fixed(probes), tolerance=0.0, control_variate=False)
        errors = estimator.log_det(batch, KIND).value - forms
        bound = estimator.bias_bound(function.shape[0], norm, KIND)
        rms = float(errors.square().mean().sqrt())
        row[f"{steps} steps"] = f"{rms:.0e} ({float(errors.mean()):+.0e}; {bound:.0e})"
    return [row]


def gradient_estimators() -> dict[str, Estimator]:
    """What estimates gradients, published ones first."""
    published = {f"published {name}": published_estimator(name) for name in PUBLISHED_GRADIENTS}
    return published | {
        "ours: training default": default_estimator(192, training=True),
        "  without control variate": Krylov(8, control_variate=False),
        "  one diluted probe": Krylov(8, probe=Diluted(), control_variate=False),
    }


def gradient(estimator: Estimator, linearization: DenseLinearization) -> tuple[Tensor, int]:
    """The gradient of one estimate by all weights, and its products."""
    bound = linearization.bound
    leaves = [t.detach().requires_grad_() for t in bound.tensors()]
    at = bound.with_tensors(leaves).linearize(linearization.point)
    result = estimator.log_det(at, KIND)
    gradients = torch.autograd.grad(result.value.sum(), leaves, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients]), result.products


@torch.enable_grad()
def gradient_rows(block: str, linearization: DenseLinearization, repeats: int) -> list[Row]:
    """One row per estimator."""
    exact = gradient(Exact(limit=256), linearization)[0]
    rows: list[dict[str, str | int | float]] = []
    for name, estimator in gradient_estimators().items():
        count = max(repeats // DILUTED_SHARE, 5) if is_diluted(estimator) else repeats
        torch.manual_seed(0)
        runs = [gradient(estimator, linearization) for _ in range(count)]
        errors = torch.stack([estimate - exact for estimate, _ in runs])
        variance = float(errors.square().sum(1).mean() / exact.square().sum())
        products = sum(p for _, p in runs) / count
        row: dict[str, str | int | float] = {"block": block, "estimator": name}
        row |= {"relative error": variance**0.5, "products": products}
        bias = float(errors.mean(0).norm() / exact.norm())
        noise = (variance / count) ** 0.5
        row |= {"error² x prod": variance * products, "of their mean": f"{bias:.2f} ({noise:.2f})"}
        rows.append(row)
    return with_gain(rows, "error² x prod")


@torch.no_grad()
def main() -> None:
    """Run everything, print the tables, write the JSON."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    quick: bool = arguments.quick
    samples, repeats = (200, 20) if quick else (1000, 100)
    print(machine())
    tables: Mapping[str, list[Row]] = {"value": [], "gradient": [], "krylov": []}
    for name in IMAGES[1:3] if quick else IMAGES:
        linearization = crop(name)
        tables["gradient"].extend(gradient_rows(name, linearization, repeats))
        for norm, matrix in at_norms(as_matrix(linearization), NORMS).items():
            tables["value"].extend(value_rows(name, norm, matrix, samples))
            tables["krylov"].extend(krylov_rows(name, norm, matrix, 200))
        print(f"{name} done", file=sys.stderr, flush=True)
    for title, rows in tables.items():
        print_table(title, rows)
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
