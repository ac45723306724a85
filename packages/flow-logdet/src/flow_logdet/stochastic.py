"""What all estimators with random probes share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from flow_solvers import SolvedLinearization, refuse_forward_mode, require_integer, require_kind
from flow_solvers.maps import BoundMap, Linearization
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_logdet.estimator import LogDet
from flow_logdet.first_order import control_samples, first_order_of, has_first_order
from flow_logdet.gradient import (
    Estimate,
    Pairs,
    Surrogate,
    is_differentiable,
    keep_precision,
    with_gradient,
)
from flow_logdet.kinds import Kind
from flow_logdet.probes import Probe


@dataclass(frozen=True)
class Quadrature:
    """Quadratic forms of f(J) in given vectors, without a graph.

    Attributes:
        forms: εᵀf(J)ε for every vector and sample.
        products: Products with J or Jᵀ per sample.
        pairs: Makes (v, ε) with E Σ ⟨v, dJ ε⟩ = Σ tr(f'(J) dJ) over the vectors.
        errors: About the largest errors that the forms may have; None where nothing is known.
    """

    forms: Float[Tensor, " vectors batch"]
    products: int
    pairs: Callable[[], Pairs]
    errors: Float[Tensor, " vectors batch"] | None = None


Rule = Callable[[Linearization, Kind, Tensor], Quadrature]


class StochasticEstimator(ABC):
    """An estimator whose gradient is that of a surrogate; second derivatives raise."""

    @abstractmethod
    def estimate(self, linearization: Linearization, kind: Kind) -> Estimate:
        """The value without a graph, and how to get its gradient."""

    def linearize(self, bound: BoundMap, w: Float[Tensor, " batch *shape"]) -> Linearization:
        """The plain linearization."""
        return bound.linearize(w)

    @final
    def log_det(self, linearization: Linearization, kind: Kind) -> LogDet:
        """An estimate per sample, with the first derivative of the log-determinant."""
        refuse_forward_mode(linearization.point, *linearization.bound.tensors())
        estimate = self.estimate(_plain(linearization), kind)
        value, products = estimate.value, estimate.products
        if is_differentiable(linearization):
            surrogate = estimate.surrogate(kind)
            value = with_gradient(value, _attached(linearization, surrogate))
            keep_precision(value, linearization)
            products += surrogate.products
        return estimate.log_det(value, products)


class ProbeEstimator(StochasticEstimator):
    """An estimator E[εᵀf(J)ε] = tr f(J) from probes with E[εεᵀ] = I.

    Concrete ones are frozen dataclasses with the three fields below; they only say how the
    quadratic forms are computed.

    Attributes:
        probe: Law of the probes.
        probes: Number of independent probes; two or more give a standard error.
        control_variate: Use the exact trace of the first-order part of J where the linearization
            has one (`HasFirstOrder`). The products with that part are not counted: they are far
            cheaper than products with J.
    """

    probe: Probe
    probes: int
    control_variate: bool

    @abstractmethod
    def quadrature(
        self,
        linearization: Linearization,
        kind: Kind,
        probes: Float[Tensor, " count groups batch *shape"],
    ) -> Quadrature:
        """The quadratic forms of all `count * groups` vectors, in this order."""

    @final
    def estimate(self, linearization: Linearization, kind: Kind) -> Estimate:
        """The mean of the quadratic forms, with the control variate where there is one."""
        return estimate_from_probes(self, self.quadrature, linearization, kind)


def estimate_from_probes(
    settings: ProbeEstimator, quadrature: Rule, linearization: Linearization, kind: Kind
) -> Estimate:
    """Draw probes, take their quadratic forms by a rule, add the control variate."""
    with torch.no_grad():
        probes = settings.probe.draw(linearization.point, settings.probes)
        result = quadrature(linearization, kind, probes)
        samples = _sums(result.forms, probes)
        controlled = settings.control_variate and has_first_order(linearization)
        if controlled:
            control = control_samples(first_order_of(linearization), kind, probes)
            samples = samples + in_float64(control)
    errors, point = result.errors, linearization.point
    return Estimate(
        value=samples.mean(0).to(point),
        standard_error=_beside(point, _standard_error(samples)),
        bias=_beside(point, None if errors is None else _sums(errors, probes).mean(0)),
        products=result.products,
        pairs=result.pairs,
        controlled=probes if controlled else None,
    )


def _plain(linearization: Linearization) -> Linearization:
    """The same without a graph, where there is one."""
    return linearization.plain if isinstance(linearization, SolvedLinearization) else linearization


def _attached(linearization: Linearization, surrogate: Surrogate) -> Float[Tensor, " batch"]:
    """What has the gradient of the surrogate."""
    if isinstance(linearization, SolvedLinearization):
        return linearization.attach(surrogate.rule, *surrogate.constants)
    return surrogate(linearization)


def check_counts(**counts: object) -> None:
    """Raise a ValueError unless every count is at least one, a TypeError for no integer."""
    for name, count in counts.items():
        require_integer(name, count, 1)


def check_probe(probe: object) -> None:
    """Raise a TypeError unless it is a law of probes."""
    require_kind("probe", probe, Probe, "a law of probes such as Rademacher()")


def _sums(
    forms: Float[Tensor, " vectors batch"], probes: Float[Tensor, " count groups batch *shape"]
) -> Float[Tensor, " count batch"]:
    """Over the groups of a probe."""
    return forms.reshape(probes.shape[:3]).sum(1)


def _beside(point: Tensor, numbers: Tensor | None) -> Tensor | None:
    """The numbers where the point is; in its dtype where they had to leave its device."""
    if numbers is None or numbers.device == point.device:
        return numbers
    return numbers.to(point)


def _standard_error(samples: Float[Tensor, " count batch"]) -> Float[Tensor, " batch"] | None:
    count = len(samples)
    if count < 2:
        return None
    # Not std: it warns of an empty batch.
    return (samples - samples.mean(0)).square().sum(0).div(count * (count - 1)).sqrt()
