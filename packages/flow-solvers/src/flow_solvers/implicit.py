"""Differentiation by the implicit function theorem, to any order."""
# ruff: noqa: ANN401  (torch gives the context of a Function no type)

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers.linear import Adjoint, AdjointSolver, LinearSolution, Operator, Tangent
from flow_solvers.maps import BoundMap, Linearization
from flow_solvers.solution import Solution, SolverError
from flow_solvers.solver import Solver
from flow_solvers.tolerance import Tolerance

OnFailure = Literal["raise", "return"]
Transpose = type[Adjoint] | type[Tangent]
_OTHER: dict[Transpose, Transpose] = {Adjoint: Tangent, Tangent: Adjoint}


@dataclass(frozen=True)
class Problem:
    """The settings of one solve, and the map without its gradients."""

    bound: BoundMap
    solver: Solver
    adjoint: AdjointSolver
    tolerance: Tolerance
    on_failure: OnFailure

    def at(self, tensors: Sequence[Tensor]) -> BoundMap:
        """The map with other tensors."""
        return self.bound.with_tensors(tensors)


class _Slot:
    """Carries what is not differentiated into a forward and out of it."""

    def __init__(self, start: Tensor) -> None:
        self.start = start
        self.solution: Solution | None = None


def solve_implicit(
    problem: Problem,
    x: Float[Tensor, " batch *shape"],
    start: Float[Tensor, " batch *shape"],
    tensors: Sequence[Tensor],
) -> tuple[Float[Tensor, " batch *shape"], Solution]:
    """The solution of w + G(w) = x with gradients to x and to the tensors of G.

    dL/dx = v and dL/dθ = -vᵀ ∂G/∂θ with (I + Jᵀ) v = dL/dw.
    """
    slot = _Slot(start)
    value = cast("Tensor", _Root.apply(problem, slot, x, *tensors))
    assert slot.solution is not None
    return value, slot.solution


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(problem: Problem, slot: _Slot, x: Tensor, *tensors: Tensor) -> Tensor:
        del tensors
        with without_autocast(x):
            slot.solution = problem.solver.solve(problem.bound, x, slot.start, problem.tolerance)
        value = slot.solution.value
        # A start that was a solution already must not leave as the same storage.
        return value.clone() if value is slot.start else value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        problem, slot, _, *tensors = inputs
        ctx.problem, ctx.linearization = problem, slot.solution.linearization
        ctx.save_for_backward(output, *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        value, *tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        problem: Problem = ctx.problem
        with without_autocast(value):
            if torch.is_grad_enabled():
                solved, grads = _graphed(problem, value, cotangents[0], tensors, needed)
            else:
                solved, grads = _plain(
                    problem,
                    value,
                    cotangents[0],
                    tensors,
                    needed,
                    linearization=ctx.linearization,
                )
        return (None, None, solved, *grads)


def _plain(
    problem: Problem,
    value: Tensor,
    cotangent: Tensor,
    tensors: Sequence[Tensor],
    needed: Sequence[bool],
    *,
    linearization: Linearization | None,
) -> tuple[Tensor, list[Tensor | None]]:
    """First derivatives: one graph of G for the tensors, shared with the adjoint solve."""
    leaves = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
    bound = problem.at(leaves)
    with torch.set_grad_enabled(any(needed)):
        if linearization is None:
            linearization = bound.linearize(value.detach())
            image = linearization.value
        else:
            image = bound(value.detach()) if any(needed) else value
    solved = _solve(problem, Adjoint(linearization), cotangent)
    return solved, _pull_back(image, leaves, needed, -solved)


def _graphed(
    problem: Problem,
    value: Tensor,
    cotangent: Tensor,
    tensors: Sequence[Tensor],
    needed: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """First derivatives that can be differentiated again.

    `value` is the output of the node itself and depends on the tensors through it. Their aliases
    do not feed it: differentiating by an alias gives the partial derivative of G, and the graph
    behind the alias carries the second derivatives.
    """
    solved = _solve_differentiably(problem, Adjoint, value, cotangent, tensors)
    aliases = _aliases(tensors)
    image = problem.at(aliases)(value) if any(needed) else value
    return solved, _pull_back(image, aliases, needed, -solved)


class _LinearSolve(torch.autograd.Function):
    """v with (I + Jᵀ) v = g, or u with (I + J) u = g; each is the derivative of the other."""

    @staticmethod
    def forward(
        problem: Problem, transpose: Transpose, point: Tensor, rhs: Tensor, *tensors: Tensor
    ) -> Tensor:
        linearization = problem.at([t.detach() for t in tensors]).linearize(point.detach())
        return _solve(problem, transpose(linearization), rhs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        problem, transpose, point, _, *tensors = inputs
        ctx.problem, ctx.transpose = problem, transpose
        ctx.save_for_backward(output, point, *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """d⟨h, v⟩ = ⟨u, dg⟩ - ⟨v, dJ u⟩ with (I + J) u = h, and likewise transposed."""
        solution, point, *tensors = ctx.saved_tensors
        problem: Problem = ctx.problem
        with without_autocast(solution):
            other = _solve_differentiably(
                problem, _OTHER[ctx.transpose], point, cotangents[0], tensors
            )
            left, right = (solution, other) if ctx.transpose is Adjoint else (other, solution)
            inputs = [point, *tensors]
            needed = [ctx.needs_input_grad[2], *ctx.needs_input_grad[4:]]
            grads = _curvature(problem, inputs, needed, left, right)
        return (None, None, grads[0], other, *grads[1:])


def _curvature(
    problem: Problem,
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    left: Tensor,
    right: Tensor,
) -> list[Tensor | None]:
    """Gradient of -⟨left, J right⟩ by the point and the tensors of G, for fixed vectors."""
    if not any(needed):
        return [None] * len(needed)
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        point, *tensors = (
            _aliases(inputs)
            if again
            else [t.detach().requires_grad_(n) for t, n in zip(inputs, needed, strict=True)]
        )
        product = problem.at(tensors).linearize(point).jvp(right)
    return _pull_back(product, [point, *tensors], needed, -left)


def _solve_differentiably(
    problem: Problem,
    transpose: Transpose,
    point: Tensor,
    rhs: Tensor,
    tensors: Sequence[Tensor],
) -> Tensor:
    return cast("Tensor", _LinearSolve.apply(problem, transpose, point, rhs, *tensors))


def _solve(problem: Problem, operator: Operator, rhs: Tensor) -> Tensor:
    with torch.no_grad():
        solution: LinearSolution = problem.adjoint.solve(operator, rhs)
    if problem.on_failure == "raise" and not solution.solvable:
        raise SolverError("derivative of a fixed point", solution.residual, solution.status)
    return solution.value


def _aliases(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.view_as(t) if t.requires_grad else t for t in tensors]


def _pull_back(
    output: Tensor, inputs: Sequence[Tensor], needed: Sequence[bool], cotangent: Tensor
) -> list[Tensor | None]:
    """Gradients by the inputs that need one; zero where the output does not depend on them."""
    wanted = [t for t, n in zip(inputs, needed, strict=True) if n]
    if not wanted:
        return [None] * len(needed)
    if not output.requires_grad:
        return [torch.zeros_like(t) if n else None for t, n in zip(inputs, needed, strict=True)]
    found = iter(
        torch.autograd.grad(
            output,
            wanted,
            cotangent,
            create_graph=torch.is_grad_enabled(),
            materialize_grads=True,
        )
    )
    return [next(found) if n else None for n in needed]


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Solves keep the precision of their input whatever the autocast state."""
    kind = like.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
