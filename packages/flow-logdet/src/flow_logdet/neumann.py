"""Honest value of a series, gradient by the Neumann series: one product with a graph."""

from dataclasses import dataclass
from typing import final

from flow_solvers import require_kind
from flow_solvers.maps import Linearization
from jaxtyping import Float
from torch import Tensor

from flow_logdet.gradient import Estimate, Pairs
from flow_logdet.kinds import Kind
from flow_logdet.series import Series, neumann_pairs, products_of
from flow_logdet.stochastic import Quadrature, StochasticEstimator, estimate_from_probes


@final
@dataclass(frozen=True)
class NeumannGradient(StochasticEstimator):
    """The value of a series with the gradient ⟨Σ k·a_k c_k (Jᵀ)ᵏ⁻¹ε, dJ ε⟩.

    Its mean is that of the derivative of the series, for one product with a graph instead of one
    per term. Unlike the surrogate of the published codes (`NeumannSurrogate`) the value stays an
    estimate of the log-determinant.

    Source: Chen et al. 2019 (Residual Flows), theorem 2.

    Attributes:
        series: `PowerSeries` or `Roulette`; it brings the probes.

    Raises:
        TypeError: If it is of another kind.
    """

    series: Series

    def __post_init__(self) -> None:
        require_kind("series", self.series, Series, "a PowerSeries or a Roulette")

    def estimate(self, linearization: Linearization, kind: Kind) -> Estimate:
        """The value of the series, and the pairs of the Neumann series."""
        return estimate_from_probes(self.series, self._quadrature, linearization, kind)

    def _quadrature(
        self,
        linearization: Linearization,
        kind: Kind,
        probes: Float[Tensor, " count groups batch *shape"],
    ) -> Quadrature:
        powers, vectors = self.series.powers(linearization, kind, probes), probes.flatten(0, 1)

        def pairs() -> Pairs:
            """What the gradient is made of, where one is asked for."""
            return neumann_pairs(powers, vectors, len(probes))

        return Quadrature(powers.forms(), products_of(powers), pairs)
