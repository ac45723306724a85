"""Power series tr f(J) = Σ a_k tr Jᵏ with probes."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import final

import torch
from flow_solvers import require_kind
from flow_solvers.maps import Linearization
from flow_solvers.precision import float64_device, in_float64
from jaxtyping import Float
from torch import Tensor

from flow_logdet.gradient import Pairs
from flow_logdet.kinds import Kind
from flow_logdet.probes import Probe, Rademacher, inner
from flow_logdet.stochastic import ProbeEstimator, Quadrature, check_counts, check_probe

TermWeights = Float[Tensor, " terms count columns"]


@dataclass(frozen=True)
class Powers:
    """What a pass over the powers of J leaves behind.

    Attributes:
        cotangents: (Jᵀ)ᵏε for k = 0, ..., K-1.
        image: Jε.
        coefficients: a_k times the weight of term k, for every vector and sample (or one column
            for the whole batch).
    """

    cotangents: list[Float[Tensor, " vectors batch *shape"]]
    image: Float[Tensor, " vectors batch *shape"]
    coefficients: Float[Tensor, " terms vectors columns"]

    def forms(self) -> Float[Tensor, " vectors batch"]:
        """Σ a_k εᵀJᵏε, with the k-th moment as ⟨(Jᵀ)ᵏ⁻¹ε, Jε⟩."""
        moments = torch.stack([inner(u, self.image) for u in self.cotangents])
        return (self.coefficients * in_float64(moments)).sum(0)

    def combine(
        self, factors: Float[Tensor, " terms vectors columns"]
    ) -> Float[Tensor, " vectors batch *shape"]:
        """Σ over k of factor_k (Jᵀ)ᵏε; zero factors are skipped by their index."""
        used = zip(factors, self.cotangents, strict=False)
        return sum((broadcast(factor, u) * u for factor, u in used), torch.zeros_like(self.image))


class Series(ProbeEstimator):
    """A power series whose terms carry (possibly random) weights."""

    @abstractmethod
    def weights(self, kind: Kind, count: int, batch: int) -> TermWeights:
        """Weights of the terms k = 1, ..., K in float64 on the CPU.

        The columns are the samples, or one column for the whole batch.
        """

    def quadrature(
        self,
        linearization: Linearization,
        kind: Kind,
        probes: Float[Tensor, " count groups batch *shape"],
    ) -> Quadrature:
        """The series, with the exact derivative of the very sum that is returned."""
        powers, vectors = self.powers(linearization, kind, probes), probes.flatten(0, 1)

        def pairs() -> Pairs:
            return pathwise_pairs(linearization, powers, vectors, len(probes))

        return Quadrature(powers.forms(), products_of(powers), pairs)

    def powers(
        self,
        linearization: Linearization,
        kind: Kind,
        probes: Float[Tensor, " count groups batch *shape"],
    ) -> Powers:
        """All products that the value needs: one per term and vector."""
        count, groups, batch = probes.shape[:3]
        weights = self.weights(kind, count, batch)
        terms = [kind.coefficient(k) for k in range(1, len(weights) + 1)]
        coefficients = weights * torch.tensor(terms, dtype=torch.float64).view(-1, 1, 1)
        vectors = probes.flatten(0, 1)
        place, cotangents = float64_device(vectors.device), [vectors]
        for _ in range(len(weights) - 1):
            cotangents.append(linearization.vjp(cotangents[-1]))
        return Powers(
            cotangents=cotangents,
            image=linearization.jvp(vectors),
            coefficients=coefficients.to(place).repeat_interleave(groups, dim=1),
        )


@final
@dataclass(frozen=True)
class PowerSeries(Series):
    """The truncated series Σ_{k ≤ terms} a_k εᵀJᵏε: biased, see `bias_bound`.

    The derivative is the exact one of the returned sum; it costs one product with a graph per term
    (`NeumannGradient` needs only one). For `Kind.MONOTONE` an even last term is not computed.

    Source: Behrmann et al. 2019, eq. 4.

    Attributes:
        terms: Powers of J.
        probe: Law of the probes.
        probes: Number of independent probes.
        control_variate: Use the first-order part where there is one.
    """

    terms: int
    probe: Probe = field(default_factory=Rademacher)
    probes: int = 1
    control_variate: bool = False

    def __post_init__(self) -> None:
        check_counts(terms=self.terms, probes=self.probes)
        check_probe(self.probe)
        require_kind("control_variate", self.control_variate, bool, "True or False")

    def weights(self, kind: Kind, count: int, batch: int) -> TermWeights:
        """Ones."""
        return torch.ones(kind.last_power(self.terms), count, 1, dtype=torch.float64)

    def bias_bound(self, dim: int, lipschitz: float, kind: Kind) -> float:
        """dim·Σ_{k > terms} |a_k| Lᵏ: a bound on |E[value] - log det| in nats.

        Args:
            dim: Dimension of a sample.
            lipschitz: A bound L < 1 on ‖J‖.
            kind: Which log-determinant.
        """
        return dim * kind.tail(kind.last_power(self.terms), lipschitz)


def pathwise_pairs(
    linearization: Linearization,
    powers: Powers,
    vectors: Float[Tensor, " vectors batch *shape"],
    count: int,
) -> Pairs:
    """The derivative of the sum itself: εᵀ d(Jᵏ) ε = Σ_{i+j=k-1} ⟨(Jᵀ)ⁱε, dJ Jʲε⟩.

    Direction j is Jʲε, its adjoint Σ_i a_{i+j+1} (Jᵀ)ⁱε.
    """
    terms = len(powers.cotangents)
    directions = [vectors, powers.image][:terms]
    with torch.no_grad():
        while len(directions) < terms:
            directions.append(linearization.jvp(directions[-1]))
        adjoints = [powers.combine(powers.coefficients[j:] / count) for j in range(terms)]
    spent = max(terms - 2, 0) * len(vectors)
    return Pairs(torch.cat(adjoints), torch.cat(directions), spent)


def neumann_pairs(
    powers: Powers, vectors: Float[Tensor, " vectors batch *shape"], count: int
) -> Pairs:
    """The derivative of the trace: d tr Jᵏ = k tr(Jᵏ⁻¹ dJ), so v = Σ k·a_k (Jᵀ)ᵏ⁻¹ε."""
    coefficients = powers.coefficients
    order = torch.arange(1, len(coefficients) + 1, device=coefficients.device).view(-1, 1, 1)
    with torch.no_grad():
        adjoint = powers.combine(order * coefficients / count)
    return Pairs(adjoint, vectors)


def products_of(powers: Powers) -> int:
    """One product per vector and term."""
    return len(powers.cotangents) * len(powers.image)


def broadcast(
    factor: Float[Tensor, " vectors columns"], like: Float[Tensor, " vectors batch *shape"]
) -> Float[Tensor, " vectors columns *ones"]:
    """A factor per vector and sample in the shape and type of the samples."""
    return factor.to(like).view(*factor.shape, *[1] * (like.ndim - 2))
