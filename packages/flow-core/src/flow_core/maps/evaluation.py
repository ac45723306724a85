"""Value and Jacobian from code without a graph, as a differentiable function.

Backward evaluates the net again: as a whole, and without the intermediate results that autograd
would have kept.
"""
# ruff: noqa: ANN401  (torch gives the context of a Function no type)

from typing import Any, Protocol, cast, runtime_checkable

import torch
from flow_kernels.autograd import keep_signature
from flow_solvers import BoundMap, PureFunction, PureMap
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from flow_core.maps.pure import PureDense


@runtime_checkable
class SmallMap(BoundMap, Protocol):
    """A map of small dimension with its whole Jacobian, as pure functions and with a graph."""

    def run(self, function: PureFunction, w: Tensor, *arguments: object) -> tuple[Tensor, ...]:
        """`function(pure_map, w, *arguments)`, without a graph."""
        ...

    def value_and_jacobian(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """G(w) and J(w) with a graph, operation by operation."""
        ...


def evaluate_whole(
    bound: SmallMap, w: Float[Tensor, "batch dim"]
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim dim"]]:
    """G(w) and J(w), differentiable to any order; first derivatives are run as a whole too."""
    return cast("tuple[Tensor, Tensor]", _Whole.apply(bound, w, *bound.tensors()))


class _Whole(Function):
    @staticmethod
    def forward(bound: SmallMap, w: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        del tensors
        return bound.run(_numbers, w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
        ctx.bound, *sources = inputs
        ctx.save_for_backward(*sources)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        w, *tensors = ctx.saved_tensors
        bound = cast(SmallMap, ctx.bound.with_tensors(tensors))
        if torch.is_grad_enabled():
            inputs = [t.view_as(t) if t.requires_grad else t for t in (w, *tensors)]
            outputs = cast(SmallMap, bound.with_tensors(inputs[1:])).value_and_jacobian(inputs[0])
            wanted = [t for t in inputs if t.requires_grad]
            found = iter(torch.autograd.grad(outputs, wanted, cotangents, create_graph=True))
            return (None, *(next(found) if t.requires_grad else None for t in inputs))
        return (None, *bound.run(_pull, w, *cotangents))


keep_signature(_Whole)


def _numbers(pure: PureMap, w: Tensor) -> tuple[Tensor, ...]:
    return pure.value_and_jacobian(w)


def _pull(pure: PureDense, w: Tensor, value: Tensor, jacobian: Tensor) -> tuple[Tensor, ...]:
    by_w, by_tensors = pure.pull_both(w, value, jacobian)
    return by_w, *by_tensors
