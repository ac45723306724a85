"""Ways to follow the largest singular pair of an operator while its weight changes.

All work on a batch of operators of one shape, start from the last right vector v, and return unit
vectors (u, v) with uᵀ A v >= 0, an estimate of the norm from below.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow_core.lipschitz.operators import Left, MatrixOperator, Right, WeightOperator

LONGEST_CYCLE = 20
RANDOM_SEED = 0


@dataclass(frozen=True)
class SpectralMethod(ABC):
    """A recipe for the largest singular pair."""

    @abstractmethod
    def refine(
        self, operator: WeightOperator, v: Right, iterations: int | None
    ) -> tuple[Left, Right]:
        """A pair from v; `iterations` >= 1 asks for exactly that many products with A and Aᵀ."""

    @property
    @abstractmethod
    def initial_iterations(self) -> int:
        """Products that a new layer, whose vectors are random, starts with."""


@dataclass(frozen=True)
class PowerIteration(SpectralMethod):
    """u <- A v / |A v|, v <- Aᵀ u / |Aᵀ u| (Miyato et al. 2018), the published recipe.

    Stops after `steps`, or earlier where the root mean square change of v is below
    tolerance (1 + largest entry of v). For feature maps that test is loose: at 1e-3 it leaves the
    norm 2-12 % low from a cold start. `tolerance=0` always takes `steps`, and never synchronises.
    """

    steps: int = 200
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        require_positive("PowerIteration", steps=self.steps)

    @property
    def initial_iterations(self) -> int:
        """200."""
        return 200

    def refine(
        self, operator: WeightOperator, v: Right, iterations: int | None
    ) -> tuple[Left, Right]:
        """At most `steps` iterations, or exactly `iterations`."""
        tolerance = self.tolerance if iterations is None else 0.0
        u, last = power_step(operator, v)
        for _ in range((self.steps if iterations is None else iterations) - 1):
            if tolerance > 0 and bool(settled(last, v, tolerance).all()):
                break
            v = last
            u, last = power_step(operator, v)
        return u, last


@dataclass(frozen=True)
class GolubKahan(SpectralMethod):
    """Golub-Kahan-Lanczos bidiagonalisation from the last right vector and a fixed random one.

    k steps find the best pair of two Krylov spaces of dimension k, at the price of k power
    iterations. Near the top of its spectrum a convolution has many singular values, which change
    places while it is trained: a method that starts from the last vector alone keeps following one
    that is no longer the largest, and no residual tells. Half of the start is therefore a random
    vector, always the same one, in which every direction has a part.
    (Golub and Kahan 1965; random starts: Kuczynski and Wozniakowski 1992.)

    Args:
        steps: Products with A and with Aᵀ for every update; two more with A compare the pair with
            that of the last vector.
    """

    steps: int = 12

    def __post_init__(self) -> None:
        require_positive("GolubKahan", steps=self.steps)

    @property
    def initial_iterations(self) -> int:
        """One longest cycle."""
        return LONGEST_CYCLE

    def refine(
        self, operator: WeightOperator, v: Right, iterations: int | None
    ) -> tuple[Left, Right]:
        """`steps` steps, or `iterations` in the longest cycles; no worse pair than that of v."""
        steps = self.steps if iterations is None else iterations
        found = golub_kahan_steps(operator, normalize(v + fixed_random(v)), steps)
        last = image_of(operator, normalize(v))
        return better(last, image_of(operator, found[1]))


@dataclass(frozen=True)
class ExactSVD(SpectralMethod):
    """The pair to rounding, from the eigenvectors of the smaller Gram matrix; matrices only.

    For the small sides of flows it costs less than five power iterations.
    """

    @property
    def initial_iterations(self) -> int:
        """1."""
        return 1

    def refine(
        self, operator: WeightOperator, v: Right, iterations: int | None
    ) -> tuple[Left, Right]:
        """The pair, whatever the start and however many `iterations`.

        Raises:
            ValueError: The operator is no matrix, or has entries that are not finite.
        """
        if not isinstance(operator, MatrixOperator):
            raise ValueError("ExactSVD: expected a matrix, got a convolution; use GolubKahan")  # noqa: TRY004
        matrix = operator.matrix
        if matrix.shape[1] <= matrix.shape[2]:
            u = top_eigenvector(matrix @ matrix.mT)
            return u, normalize(operator.adjoint(u))
        v = top_eigenvector(matrix.mT @ matrix)
        return normalize(operator.apply(v)), v


def power_step(operator: WeightOperator, v: Right) -> tuple[Left, Right]:
    """A v and AᵀA v, normalised."""
    u = normalize(operator.apply(v))
    return u, normalize(operator.adjoint(u))


def image_of(operator: WeightOperator, v: Right) -> tuple[Float[Tensor, "batch one"], Left, Right]:
    """|A v|, A v / |A v| and v."""
    image = operator.apply(v)
    length = torch.linalg.vector_norm(image, dim=-1, keepdim=True)
    return length, image / positive(length), v


def better(
    one: tuple[Float[Tensor, "batch one"], Left, Right],
    other: tuple[Float[Tensor, "batch one"], Left, Right],
) -> tuple[Left, Right]:
    """Of two pairs the one with the larger |A v|; the other where they are equal."""
    first = one[0] > other[0]
    return torch.where(first, one[1], other[1]), torch.where(first, one[2], other[2])


def fixed_random(like: Right) -> Right:
    """Random unit vectors, the same at every call: no random state is touched."""
    generator = torch.Generator(like.device).manual_seed(RANDOM_SEED)
    row = torch.randn(
        like.shape[-1], generator=generator, device=like.device, dtype=torch.float32
    ).to(like.dtype)
    return normalize(row.expand_as(like))


def golub_kahan_steps(operator: WeightOperator, v: Right, steps: int) -> tuple[Left, Right]:
    """`steps` steps, in cycles that are as long as possible."""
    cycle = min(steps, LONGEST_CYCLE)
    u, v = golub_kahan_cycle(operator, v, cycle)
    return (u, v) if cycle == steps else golub_kahan_steps(operator, v, steps - cycle)


def golub_kahan_cycle(operator: WeightOperator, v: Right, steps: int) -> tuple[Left, Right]:
    """The best pair of the Krylov spaces of `steps` steps from the unit vectors v.

    A V = U B holds to rounding by construction. The bases are not orthogonalised: what they lose in
    so few steps costs accuracy of the pair, never the bound uᵀ A v <= |A|, for u and v are
    normalised.

    Raises:
        ValueError: The operator is not finite.
    """
    right, left, bidiagonal = bidiagonalize(operator, v, min(steps, operator.rank_bound))
    p, _, qh = torch.linalg.svd(require_finite(bidiagonal))
    return combine(p[:, :, 0], left), combine(qh[:, 0], right)


def bidiagonalize(
    operator: WeightOperator, v: Right, steps: int
) -> tuple[
    Float[Tensor, "batch steps columns"],
    Float[Tensor, "batch steps rows"],
    Float[Tensor, "batch steps steps"],
]:
    """V, U and B of A V = U B, B upper bidiagonal, by recurrences of three terms."""
    right, left, diagonal, above = [v], [], [], []
    image = operator.apply(v)
    for step in range(steps):
        length = positive(torch.linalg.vector_norm(image, dim=-1, keepdim=True))
        left.append(image / length)
        diagonal.append(length)
        if step + 1 < steps:
            back = operator.adjoint(left[-1]) - length * right[-1]
            coupling = positive(torch.linalg.vector_norm(back, dim=-1, keepdim=True))
            right.append(back / coupling)
            above.append(coupling)
            image = operator.apply(right[-1]) - coupling * left[-1]
    matrix = torch.diag_embed(torch.cat(diagonal, 1))
    if above:
        matrix = matrix + torch.diag_embed(torch.cat(above, 1), offset=1)
    return torch.stack(right, 1), torch.stack(left, 1), matrix


def combine(
    coefficients: Float[Tensor, "batch steps"], basis: Float[Tensor, "batch steps dim"]
) -> Float[Tensor, "batch dim"]:
    """The unit vector with these coefficients."""
    return normalize((coefficients.unsqueeze(1) @ basis).squeeze(1))


def top_eigenvector(gram: Float[Tensor, "batch side side"]) -> Float[Tensor, "batch side"]:
    """The eigenvector of the largest eigenvalue."""
    vectors: Tensor = torch.linalg.eigh(require_finite(gram))[1]
    return vectors[..., -1]


def require_finite(x: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows columns"]:
    """X itself, before a factorisation that would fail on it or turn it into nonsense.

    Raises:
        ValueError: Entries are not finite.
    """
    if not math.isfinite(float(x.sum())):
        raise ValueError(
            "update_lipschitz: expected finite weights whose squares do not overflow, got others; "
            "load a checkpoint, or skip optimizer steps with gradients that are not finite"
        )
    return x


def settled(
    new: Float[Tensor, "batch dim"], old: Float[Tensor, "batch dim"], tolerance: float
) -> Bool[Tensor, " batch"]:
    """Whether the root mean square change is small against the largest entry."""
    change: Tensor = torch.linalg.vector_norm(new - old, dim=-1) / math.sqrt(new.shape[-1])
    return change < tolerance * (1 + new.amax(dim=-1))


def normalize(x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Unit vectors; zero stays zero."""
    return x / positive(torch.linalg.vector_norm(x, dim=-1, keepdim=True))


def positive(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """X, but never zero, so that one can divide by it."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def require_positive(owner: str, **sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        ValueError: A size is below 1.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{owner}: expected {name} >= 1, got {size}")
