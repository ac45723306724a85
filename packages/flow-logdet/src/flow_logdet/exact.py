"""The log-determinant from the whole Jacobian."""

from dataclasses import dataclass
from math import prod
from typing import final

import torch
from flow_solvers import SolvedLinearization, factorise
from flow_solvers.maps import BoundMap, Linearization
from jaxtyping import Float
from torch import Tensor

from flow_logdet.dense import log_det_by_factors
from flow_logdet.determinant import log_abs_det
from flow_logdet.estimator import LogDet
from flow_logdet.gradient import keep_precision
from flow_logdet.kinds import Kind
from flow_logdet.stochastic import check_counts


@final
@dataclass(frozen=True)
class Exact:
    """log|det| of the Jacobian of every sample, differentiable to any order.

    Costs `dim` products. Dimensions 1 and 2 use a closed form (no factorization), larger ones
    factorise I + J, and leave the factors to the adjoint solve where J is at a solution;
    `Kind.MONOTONE` factorises I - J² too. Gradients cost one inverse.

    Attributes:
        limit: Largest dimension that is accepted.

    Raises:
        ValueError: If `limit` is below 1.
    """

    limit: int = 64

    def __post_init__(self) -> None:
        check_counts(limit=self.limit)

    def linearize(self, bound: BoundMap, w: Float[Tensor, " batch *shape"]) -> Linearization:
        """The plain linearization."""
        return bound.linearize(w)

    def log_det(self, linearization: Linearization, kind: Kind) -> LogDet:
        """The exact value.

        Raises:
            ValueError: If the dimension is above the limit.
        """
        dim = prod(linearization.point.shape[1:])
        if dim > self.limit:
            raise ValueError(
                f"expected at most {self.limit} dimensions for the exact log-determinant, got "
                f"{dim}; raise Exact(limit=...) or use flow_logdet.Krylov"
            )
        jacobian = linearization.jacobian()
        # Half precision has no factorization, and a log-determinant needs the digits.
        jacobian = jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))
        if 0 < dim <= 2:
            value = _closed_form(jacobian, kind)
        elif torch.compiler.is_compiling():
            value = _in_compiled_code(jacobian, kind)
        else:
            value = _by_factors(linearization, jacobian, kind)
        keep_precision(value, linearization)
        return LogDet(value=value, standard_error=None, products=dim)


def _closed_form(jacobian: Float[Tensor, " batch dim dim"], kind: Kind) -> Float[Tensor, " batch"]:
    """From trace t and determinant D: log|1 + t + D| or log|(1 + D - t)/(1 + D + t)|."""
    trace, even = _trace_and_even_part(jacobian)
    if kind is Kind.RESIDUAL:
        return (even + trace).abs().log()
    return ((even - trace) / (even + trace)).abs().log()


def _trace_and_even_part(
    jacobian: Float[Tensor, " batch dim dim"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """t = tr J and 1 + det J in two dimensions, J and 1 in one."""
    if jacobian.shape[-1] == 1:
        trace = jacobian.flatten()
        return trace, torch.ones_like(trace)
    a, b, c, d = jacobian.flatten(1).unbind(-1)
    return a + d, torch.addcmul(a * d, b, c, value=-1) + 1


def _by_factors(
    linearization: Linearization, jacobian: Float[Tensor, " batch dim dim"], kind: Kind
) -> Float[Tensor, " batch"]:
    """The value, by factors of I + J that are left behind."""
    factors = factorise(jacobian)
    if isinstance(linearization, SolvedLinearization):
        linearization.leave(factors)
    return log_det_by_factors(jacobian, factors, kind)


def _in_compiled_code(
    jacobian: Float[Tensor, " batch dim dim"], kind: Kind
) -> Float[Tensor, " batch"]:
    """Σ c·log|det(I + s·J)|: compilers take no Function that has a rule for forward mode."""
    eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    value = jacobian.new_zeros(len(jacobian))
    for s, c in kind.pairs:
        value = value + c * log_abs_det(eye + s * jacobian)
    return value
