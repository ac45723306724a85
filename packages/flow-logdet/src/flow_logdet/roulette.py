"""Russian roulette: an unbiased power series of random length."""

from dataclasses import dataclass, field
from typing import final

import torch
from flow_solvers import require_integer, require_kind
from torch import Tensor

from flow_logdet.kinds import Kind
from flow_logdet.lengths import Geometric, Length, check_length
from flow_logdet.probes import Probe, Rademacher
from flow_logdet.series import Series, TermWeights
from flow_logdet.stochastic import check_counts, check_probe


@final
@dataclass(frozen=True)
class Roulette(Series):
    """Σ_k c_k a_k εᵀJᵏε with c_k = 1 up to E exact terms, then 1[N ≥ k - E]/P(N ≥ k - E).

    Unbiased for every length that has full support; the variance is finite only for
    ρ(J) < `length.variance_radius()`.

    Source: Chen et al. 2019 (Residual Flows), theorem 1.

    Attributes:
        length: Law of N, drawn on the CPU: equal on all ranks that share a seed.
        exact_terms: E, the terms that are always there.
        per_sample: A length of its own for every sample, so that the roulette noise averages out
            over the batch; the products of the longest are computed for all.
        samples: Draws of N that are averaged in c_k.
        probe: Law of the probes.
        probes: Number of independent probes, each with its own length.
        control_variate: Use the first-order part where there is one.
    """

    length: Length = field(default_factory=Geometric)
    exact_terms: int = 2
    per_sample: bool = False
    samples: int = 1
    probe: Probe = field(default_factory=Rademacher)
    probes: int = 1
    control_variate: bool = False

    def __post_init__(self) -> None:
        check_counts(samples=self.samples, probes=self.probes)
        require_integer("exact_terms", self.exact_terms, 0)
        check_probe(self.probe)
        require_kind("control_variate", self.control_variate, bool, "True or False")
        require_kind("per_sample", self.per_sample, bool, "True or False")
        check_length(self.length)

    def weights(self, kind: Kind, count: int, batch: int) -> TermWeights:
        """c_k; the last term is dropped where its Taylor coefficient is zero."""
        columns = batch if self.per_sample else 1
        draws = self.length.draw((self.samples, count, columns))
        return roulette_weights(self.length, draws, self.exact_terms, kind)


def roulette_weights(length: Length, draws: Tensor, exact_terms: int, kind: Kind) -> TermWeights:
    """c_k for given draws of shape `(samples, count, columns)`; at least one term."""
    longest = int(draws.max()) if draws.numel() else 0
    survived = torch.arange(1, longest + 1).view(-1, 1, 1, 1) <= draws
    roulette = survived.double().mean(1) / length.survival(longest).view(-1, 1, 1)
    exact = torch.ones(exact_terms, *draws.shape[1:], dtype=torch.float64)
    weights = torch.cat([exact, roulette])
    if not len(weights):
        weights = torch.zeros(1, *draws.shape[1:], dtype=torch.float64)
    return weights[: kind.last_power(len(weights))]
