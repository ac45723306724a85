"""The first-order control variate: a part J₁ of J whose trace is known.

J₁ holds the paths through a net that cross at most one nonlinearity. For a probe ε,
f'(0)·(tr J₁ - εᵀJ₁ε) has mean zero and cancels most of the variance of εᵀf(J)ε.
"""

from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

from flow_solvers.maps import Linearization
from jaxtyping import Float
from torch import Tensor

from flow_logdet.kinds import Kind
from flow_logdet.probes import inner


@runtime_checkable
class FirstOrder(Protocol):
    """A linear map per sample with a known trace; differentiable like the linearization."""

    @property
    def trace(self) -> Float[Tensor, " batch"]:
        """tr J₁, exactly."""
        ...

    @property
    def jvp(self) -> Callable[[Tensor], Tensor]:
        """t -> J₁ t for tangents of shape `(*probes, batch, *shape)`."""
        ...


@runtime_checkable
class HasFirstOrder(Protocol):
    """A linearization that knows its first-order part."""

    def first_order(self) -> FirstOrder:
        """J₁."""
        ...


def has_first_order(linearization: Linearization) -> bool:
    """Whether the control variate can be used."""
    return isinstance(linearization, HasFirstOrder)


def first_order_of(linearization: Linearization) -> FirstOrder:
    """J₁ of a linearization that `has_first_order`."""
    return cast(HasFirstOrder, linearization).first_order()


def control_samples(
    part: FirstOrder, kind: Kind, probes: Float[Tensor, " count groups batch *shape"]
) -> Float[Tensor, " count batch"]:
    """f'(0)·(tr J₁ - εᵀJ₁ε) per probe: what is added to εᵀf(J)ε."""
    vectors = probes.flatten(0, 1)
    forms = inner(vectors, part.jvp(vectors)).reshape(probes.shape[:3]).sum(1)
    return kind.slope * (part.trace - forms)


def control(
    part: FirstOrder, kind: Kind, probes: Float[Tensor, " count groups batch *shape"]
) -> Float[Tensor, " batch"]:
    """The mean of `control_samples` over the probes."""
    return control_samples(part, kind, probes).mean(0)
