"""Singular values of Jacobians: all of them, or a bracket around the extreme ones."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from flow_solvers import require_integer, require_number
from flow_solvers.krylov import golub_kahan
from jaxtyping import Float
from torch import Tensor

from flow_core.diagnostics.invertible import Point
from flow_core.diagnostics.stability.products import JacobianProducts
from flow_core.jacobian import jacobian_of

EXACT_DIMENSION = 4096
_KEPT = 100
# Of theorem 4.2 of Kuczyński and Woźniakowski.
_CONSTANT = 1.648


class Bracket(NamedTuple):
    """Two numbers with another between them; the same twice where it is known."""

    lower: float
    upper: float

    def inverted(self) -> "Bracket":
        """Around one over the number."""
        return Bracket(_per(self.upper), _per(self.lower))

    def times(self, other: "Bracket") -> "Bracket":
        """Around the product of two numbers."""
        return Bracket(self.lower * other.lower, self.upper * other.upper)

    def __str__(self) -> str:
        if self.lower == self.upper:
            return f"{self.lower:.4g}"
        return f"[{self.lower:.4g}, {self.upper:.4g}]"


@dataclass(frozen=True)
class SingularValues:
    """Those of the Jacobian of one sample, in float64.

    Attributes:
        largest: σ₁, the local Lipschitz constant.
        smallest: σ_D.
        method: How they were found, and what is certain of them.
        log_abs_det: Σ log σ in nats; None where not all are known.
        values: At most a hundred of them at even steps, largest first, with both ends; empty where
            only the ends are known.
    """

    largest: Bracket
    smallest: Bracket
    method: str
    log_abs_det: float | None = None
    values: tuple[float, ...] = ()

    @property
    def condition(self) -> Bracket:
        """σ₁/σ_D."""
        return self.largest.times(self.smallest.inverted())


class Spectrum(ABC):
    """A way to find the singular values of a Jacobian."""

    @abstractmethod
    def of(
        self, there: Callable[..., Tensor], back: Callable[..., Tensor], at: Point
    ) -> SingularValues:
        """Those of the Jacobian of `there` at one sample; `back` undoes it."""


@final
@dataclass(frozen=True)
class DenseSpectrum(Spectrum):
    """The whole Jacobian, `chunk` rows a pass, and its singular value decomposition in float64.

    Singular values are off by some rounding errors of the largest one: a condition number above
    1e15 is only known to be as large.

    Attributes:
        chunk: Rows of the Jacobian that share a pass; memory grows with it.
    """

    chunk: int = 64

    def __post_init__(self) -> None:
        require_integer("chunk", self.chunk, 1)

    def of(
        self, there: Callable[..., Tensor], back: Callable[..., Tensor], at: Point
    ) -> SingularValues:
        """By the Jacobian of `there` alone."""
        matrix = jacobian_of(there, at.x, context=at.context, chunk=self.chunk)[0]
        if not bool(torch.isfinite(matrix).all()):
            return SingularValues(Bracket(math.nan, math.nan), Bracket(math.nan, math.nan), "dense")
        values = torch.linalg.svdvals(matrix)
        largest, smallest = float(values[0]), float(values[-1])
        index = torch.linspace(0, len(values) - 1, min(_KEPT, len(values))).round().long()
        return SingularValues(
            Bracket(largest, largest),
            Bracket(smallest, smallest),
            "dense",
            float(values.log().sum()),
            tuple(values[index.to(values.device)].tolist()),
        )


@final
@dataclass(frozen=True)
class LanczosSpectrum(Spectrum):
    """The extreme singular values by Golub-Kahan bidiagonalisation, in brackets.

    The largest singular value of J is at least that of its bidiagonal matrix, for certain: a Ritz
    value. From a start of uniformly random direction it is at most 1/√(1 − ε) times as large with
    probability 1 − `failure`, where √ε·(2k − 1) = log(1.648·√D/failure) after k steps, whatever J
    is. The smallest one is one over the largest of the Jacobian of the inverse at the image, found
    in the same way: products with Jᵀ alone say little about it. Both hold up to rounding and to the
    tolerance of solves, and the second as far as the inverse undoes the map in float64.
    Source: Kuczyński & Woźniakowski 1992, theorem 4.2.

    Attributes:
        width: How much further up than down a bracket reaches, relatively; decides k.
        failure: Probability that a bracket does not reach far enough up.
        seed: Of the start.
    """

    width: float = 0.01
    failure: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("failure", self.failure)):
            require_number(name, value)
            if not 0 < value < 1:
                raise ValueError(f"expected {name} between 0 and 1, got {value}")

    def of(
        self, there: Callable[..., Tensor], back: Callable[..., Tensor], at: Point
    ) -> SingularValues:
        """By products with the Jacobians of both functions."""
        with torch.no_grad():
            image = at.moved(at.through(there))
        return SingularValues(
            self.largest(there, at),
            self.largest(back, image).inverted(),
            f"Lanczos, a bracket fails with probability {self.failure:.0e}",
        )

    def largest(self, function: Callable[..., Tensor], at: Point) -> Bracket:
        """Around σ₁ of the Jacobian of a function at one sample."""
        dim = at.x.numel()
        steps = min(self.steps(dim), dim)
        ritz = float(ritz_values(function, at, steps, self.seed)[0])
        epsilon = (self._logarithm(dim) / (2 * steps - 1)) ** 2
        upper = ritz / math.sqrt(1 - epsilon) if epsilon < 1 else math.inf
        return Bracket(ritz, upper)

    def steps(self, dim: int) -> int:
        """k for samples of `dim` values."""
        epsilon = 1 - (1 + self.width) ** -2
        return math.ceil((self._logarithm(dim) / math.sqrt(epsilon) + 1) / 2)

    def _logarithm(self, dim: int) -> float:
        return math.log(_CONSTANT * math.sqrt(dim) / self.failure)


def ritz_values(
    function: Callable[..., Tensor], at: Point, steps: int, seed: int
) -> Float[Tensor, " batch"]:
    """Lower bounds of the largest singular value of the Jacobian at every sample."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(at.x.shape, generator=generator, dtype=torch.float64).to(at.x)
    with JacobianProducts(function, at) as products:
        found = golub_kahan(products.jvp, products.vjp, start, steps)
    bidiagonal = found.bidiagonal()
    finite = torch.isfinite(bidiagonal).all((1, 2))
    values = torch.linalg.svdvals(bidiagonal.nan_to_num(0.0, 0.0, 0.0))[:, 0]
    return torch.where(finite, values, torch.nan)


def default_spectrum(dim: int, *, solves: bool) -> Spectrum:
    """Dense up to 4096 values, of models that solve fixed points up to 512; Lanczos above."""
    return DenseSpectrum() if dim <= (512 if solves else EXACT_DIMENSION) else LanczosSpectrum()


def _per(value: float) -> float:
    return 1 / value if value else math.inf
