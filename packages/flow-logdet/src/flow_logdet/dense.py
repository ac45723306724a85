"""Log-determinants of whole Jacobians, with one inverse for their gradient.

Source: d log det(I + J) = tr((I + J)⁻¹ dJ). With P = I - J², log det(I - J) - log det(I + J) is
log det P - 2·log det(I + J), and its derivative -2·tr(P⁻¹ dJ).
"""
# ruff: noqa: ANN401  (torch gives the context of a Function no type)

from typing import Any, cast

import torch
from flow_solvers import Factors
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from flow_logdet.kinds import Kind


def log_det_by_factors(
    jacobian: Float[Tensor, "*batch dim dim"], factors: Factors, kind: Kind
) -> Float[Tensor, "*batch"]:
    """The log-determinant, differentiable to any order by the Jacobian.

    Costs no factorisation beside that of I + J, or another one and a product of matrices for
    `Kind.MONOTONE`. First derivatives cost one inverse of factors, further ones products alone.

    Args:
        jacobian: J.
        factors: Of I + J.
        kind: Which log-determinant.
    """
    if kind is Kind.RESIDUAL:
        return cast("Tensor", _Even.apply(jacobian, factors.lu, factors.pivots))
    return cast("tuple[Tensor, ...]", _Odd.apply(jacobian, factors.lu))[0]


class _Even(Function):
    """log|det(I + J)|."""

    generate_vmap_rule = True

    @staticmethod
    def forward(jacobian: Tensor, lu: Tensor, pivots: Tensor) -> Tensor:
        return _log_abs_det(lu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        return _per_matrix(cotangents[0]) * _slope(_EvenSlope, ctx).mT, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return (_slope(_EvenSlope, ctx).mT * _given(tangents)).sum((-2, -1))


class _Odd(Function):
    """log|det(I - J)| - log|det(I + J)|, and the factors of I - J²."""

    generate_vmap_rule = True

    @staticmethod
    def forward(jacobian: Tensor, lu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outer, pivots, _ = torch.linalg.lu_factor_ex(_eye(jacobian) - jacobian @ jacobian)
        return _log_abs_det(outer) - 2 * _log_abs_det(lu), outer, pivots

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        _, outer, pivots = output
        ctx.mark_non_differentiable(outer, pivots)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], outer, pivots)
        ctx.save_for_forward(inputs[0], outer, pivots)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if cotangents[0] is None:
            return None, None
        return _per_matrix(cotangents[0]) * _slope(_OddSlope, ctx).mT, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        return (_slope(_OddSlope, ctx).mT * _given(tangents)).sum((-2, -1)), None, None


class _EvenSlope(Function):
    """X = (I + J)⁻¹ by factors, and its derivatives by products alone: dX = -X dJ X."""

    generate_vmap_rule = True

    @staticmethod
    def forward(jacobian: Tensor, lu: Tensor, pivots: Tensor) -> Tensor:
        return _inverse(lu, pivots)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        return -(inverse.mT @ cotangents[0] @ inverse.mT), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        inverse: Tensor = ctx.saved_tensors[0]
        return -(inverse @ _given(tangents) @ inverse)


class _OddSlope(Function):
    """S = -2·(I - J²)⁻¹ by factors of I - J², and dS = -S (dJ J + J dJ) S / 2."""

    generate_vmap_rule = True

    @staticmethod
    def forward(jacobian: Tensor, lu: Tensor, pivots: Tensor) -> Tensor:
        return -2 * _inverse(lu, pivots)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        jacobian, slope = ctx.saved_tensors
        around = slope.mT @ cotangents[0] @ slope.mT
        return -(around @ jacobian.mT + jacobian.mT @ around) / 2, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        jacobian, slope = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        tangent = _given(tangents)
        return -(slope @ (tangent @ jacobian + jacobian @ tangent) @ slope) / 2


def _slope(function: type[Function], ctx: Any) -> Tensor:
    """The matrix S with d log-det = tr(S dJ)."""
    return cast("Tensor", function.apply(*ctx.saved_tensors))


def _given(tangents: tuple[Tensor | None, ...]) -> Tensor:
    """The tangent of J; factors have none."""
    tangent = tangents[0]
    assert tangent is not None
    return tangent


def _inverse(lu: Tensor, pivots: Tensor) -> Tensor:
    # Its transpose is what gradients take, and comes as fast.
    transposed: Tensor = torch.linalg.lu_solve(lu, pivots, _eye(lu).expand_as(lu), adjoint=True)
    return transposed.mT


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _log_abs_det(lu: Tensor) -> Tensor:
    return lu.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


def _per_matrix(numbers: Tensor) -> Tensor:
    return numbers.unsqueeze(-1).unsqueeze(-1)
