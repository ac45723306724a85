"""Estimators of the published codes, for reproduction only.

They differ from the defaults in probe (normal), in length (Poisson: infinite variance) and, in
training, in a value that is no log-determinant (`NeumannSurrogate`). Exactness in one and two
dimensions is what those codes call brute force.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from flow_solvers import require_integer
from flow_solvers.maps import BoundMap, Linearization
from jaxtyping import Float
from torch import Tensor

from flow_logdet.estimator import Estimator, LogDet
from flow_logdet.exact import Exact
from flow_logdet.gradient import with_gradient
from flow_logdet.kinds import Kind
from flow_logdet.lengths import Geometric, Length, Poisson, check_length
from flow_logdet.probes import Gaussian, Probe, Rademacher, inner
from flow_logdet.roulette import Roulette, roulette_weights
from flow_logdet.stochastic import check_probe


@final
@dataclass(frozen=True)
class NeumannSurrogate:
    """The training estimator of the published codes: right gradient, WRONG VALUE.

    The value returned is ⟨Jᵀε, s⟩ with s = a₁ε + Σ_{k ≥ 1} (k+1)·a_{k+1} c_k Jᵏε, whose mean is
    tr(J f'(J)) and not tr f(J). Use `NeumannGradient` for the same gradient with an honest value.

    Source: Chen et al. 2019 (Residual Flows), eq. 8, as in their code; Ahn et al. 2022.

    Attributes:
        length: Law of the random length, one for the whole batch.
        exact_terms: Terms that are always there.
        probe: Law of the probe.
    """

    length: Length = field(default_factory=Poisson)
    exact_terms: int = 2
    probe: Probe = field(default_factory=Gaussian)

    def __post_init__(self) -> None:
        require_integer("exact_terms", self.exact_terms, 0)
        check_probe(self.probe)
        check_length(self.length)

    def linearize(self, bound: BoundMap, w: Float[Tensor, " batch *shape"]) -> Linearization:
        """The plain linearization."""
        return bound.linearize(w)

    def log_det(self, linearization: Linearization, kind: Kind) -> LogDet:
        """The surrogate: only its derivative is that of a log-determinant."""
        draws = self.length.draw((1, 1, 1))
        powers = self.exact_terms + int(draws)
        with torch.no_grad():
            probe = self.probe.draw(linearization.point, 1)[:, 0]
            weights = roulette_weights(self.length, draws, self.exact_terms, Kind.RESIDUAL)
            series, power = kind.coefficient(1) * probe, probe
            for k, weight in enumerate(weights.flatten().tolist()[:powers], start=1):
                power = linearization.jvp(power)
                series = series + (k + 1) * kind.coefficient(k + 1) * weight * power
        surrogate = inner(linearization.vjp(probe), series)[0]
        value = surrogate.detach()
        if surrogate.requires_grad:
            value = with_gradient(value, surrogate)
        return LogDet(value=value, standard_error=None, products=powers + 1)


def _exact() -> Estimator:
    return Exact()


def _evaluation(length: Callable[[], Length], probe: Callable[[], Probe]) -> Estimator:
    return Roulette(length=length(), exact_terms=20, probe=probe())


def residual_flow_training() -> Estimator:
    """Images of Residual Flows, i-DenseNets and Monotone Flows: Poisson, 2 exact terms, normal."""
    return NeumannSurrogate(Poisson(2.0), exact_terms=2, probe=Gaussian())


def residual_flow_training_long() -> Estimator:
    """The same with the 10 exact terms of the commands in their READMEs."""
    return NeumannSurrogate(Poisson(2.0), exact_terms=10, probe=Gaussian())


def residual_flow_evaluation() -> Estimator:
    """Images of the same codes in evaluation: 20 exact terms, then Poisson."""
    return _evaluation(Poisson, Gaussian)


def residual_flow_geometric() -> Estimator:
    """The unrolled estimator with geometric length and 2 exact terms (the toy default)."""
    return Roulette(Geometric(0.5), exact_terms=2, probe=Gaussian())


def implicit_flow_tabular() -> Estimator:
    """Tabular data of Implicit Normalizing Flows: geometric, 2 exact terms, signs, unrolled."""
    return Roulette(Geometric(0.5), exact_terms=2, probe=Rademacher())


def implicit_flow_training() -> Estimator:
    """Images of Implicit Normalizing Flows: Poisson, 10 exact terms, signs."""
    return NeumannSurrogate(Poisson(2.0), exact_terms=10, probe=Rademacher())


def implicit_flow_evaluation() -> Estimator:
    """Implicit Normalizing Flows in evaluation: 20 exact terms, then geometric, signs."""
    return _evaluation(Geometric, Rademacher)


PUBLISHED: dict[str, Callable[[], Estimator]] = {
    "brute-force": _exact,
    "residual-flow-training": residual_flow_training,
    "residual-flow-training-long": residual_flow_training_long,
    "residual-flow-evaluation": residual_flow_evaluation,
    "residual-flow-geometric": residual_flow_geometric,
    "implicit-flow-tabular": implicit_flow_tabular,
    "implicit-flow-training": implicit_flow_training,
    "implicit-flow-evaluation": implicit_flow_evaluation,
}


def published_estimator(name: str) -> Estimator:
    """A published estimator by its name in `PUBLISHED`.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in PUBLISHED:
        raise ValueError(f"expected one of {', '.join(sorted(PUBLISHED))}; got {name!r}")
    return PUBLISHED[name]()
