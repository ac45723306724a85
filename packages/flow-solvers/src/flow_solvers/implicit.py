"""Differentiation by the implicit function theorem, to any order."""
# ruff: noqa: ANN401  (torch gives the context of a Function no type)

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers.compiled import run
from flow_solvers.direct import Direct
from flow_solvers.factors import Factored, Factors
from flow_solvers.function_map import FunctionMap
from flow_solvers.gmres import Gmres
from flow_solvers.jacobian import JacobianLinearization
from flow_solvers.linear import (
    Adjoint,
    AdjointSolver,
    LinearSolution,
    Operator,
    Tangent,
    relative_tolerance,
)
from flow_solvers.maps import BoundMap, Linearization
from flow_solvers.precision import without_autocast, without_autocast_backward
from flow_solvers.pull_back import added, gradients, leaves_of, pull_back_to
from flow_solvers.purity import require_function, state_of, warn_of_lost_gradients
from flow_solvers.recorded import (
    Functional,
    Recorded,
    RecordingMap,
    Records,
    Remembering,
    SolvedLinearization,
)
from flow_solvers.root import Demand, pull_root
from flow_solvers.solution import Solution, SolverError
from flow_solvers.solver import Solver
from flow_solvers.tolerance import Tolerance
from flow_solvers.untransformed import Untransformed, refuse_batched, refuse_transforms

OnFailure = Literal["raise", "return"]
Transpose = type[Adjoint] | type[Tangent]
DerivativeListener: TypeAlias = Callable[[LinearSolution], bool]
"""Is told of a linear solve of a derivative, and says whether it deals with its failures."""
_OTHER: dict[Transpose, Transpose] = {Adjoint: Tangent, Tangent: Adjoint}


def require_on_failure(on_failure: str) -> None:
    """Refuse a misspelt policy, which would let failures pass.

    Raises:
        ValueError: It is neither "raise" nor "return".
    """
    if on_failure not in get_args(OnFailure):
        raise ValueError(f'expected on_failure "raise" or "return", got {on_failure!r}')


@dataclass(frozen=True)
class Problem:
    """The settings of one solve, and the map without its gradients."""

    bound: BoundMap
    solver: Solver
    adjoint: AdjointSolver
    tolerance: Tolerance
    on_failure: OnFailure
    listener: DerivativeListener | None = None
    linearized: bool = False

    def at(self, tensors: Sequence[Tensor]) -> BoundMap:
        """The map with other tensors."""
        return self.bound.with_tensors(tensors)


class _Slot:
    """Carries what is not differentiated into a forward and out of it."""

    def __init__(self, start: Tensor) -> None:
        self.start = start
        self.differentiates = torch.is_grad_enabled()
        self.loses_gradients = False
        self.solution: Solution | None = None
        self.record: Recorded | None = None
        self.records = Records()

    def solve(self, problem: "Problem", x: Tensor) -> Solution:
        """Solve from the start, and look at maps that may be no functions."""
        bound = problem.bound
        if problem.linearized and isinstance(bound, RecordingMap):
            return self._recorded(problem, bound, x)
        if not isinstance(bound, FunctionMap):
            return problem.solver.solve(bound, x, self.start, problem.tolerance)
        return self._of_callable(problem, bound, x)

    def _recorded(self, problem: "Problem", bound: RecordingMap, x: Tensor) -> Solution:
        """Solve, and have a record of the solution."""
        remembering = Remembering(bound)
        solution = problem.solver.solve(remembering, x, self.start, problem.tolerance)
        known, last = solution.linearization, remembering.last
        # What belongs to the caller may change before the backward pass.
        if known is None or known.point is self.start:
            known = remembering.remember(solution.value)
            self.record = remembering.last
        elif last is not None and known is last.linearization:
            self.record = last
        return replace(solution, linearization=known)

    def _of_callable(self, problem: "Problem", bound: FunctionMap, x: Tensor) -> Solution:
        tolerance, before = problem.tolerance, state_of(bound)
        solution = problem.solver.solve(bound, x, self.start, tolerance)
        with torch.set_grad_enabled(self.differentiates):
            self.loses_gradients = require_function(bound, x, solution, tolerance, before)
        return solution


def solve_implicit(
    problem: Problem,
    x: Float[Tensor, " batch *shape"],
    start: Float[Tensor, " batch *shape"],
    tensors: Sequence[Tensor],
) -> Solution:
    """The solution of w + G(w) = x with gradients to x and to the tensors of G.

    dL/dx = v and dL/dθ = -vᵀ ∂G/∂θ with (I + Jᵀ) v = dL/dw. Where the solver has the whole J at w,
    it is differentiable too: as a function of x and θ, through w.
    """
    refuse_transforms(x, start, *tensors)
    slot = _Slot(start)
    value, jacobian, handle = cast("_Outputs", _Root.apply(problem, slot, x, *tensors))
    assert slot.solution is not None
    if slot.loses_gradients:
        warn_of_lost_gradients()
    linearization: Linearization | None = None
    if jacobian is not None:
        linearization = JacobianLinearization(problem.at(tensors), value, x - value, jacobian)
    elif handle is not None and slot.record is not None:
        bound, plain, at = problem.at(tensors), slot.record.linearization, x - value
        linearization = SolvedLinearization(
            bound, value, at, plain, records=slot.records, handle=handle
        )
    return replace(slot.solution, value=value, linearization=linearization)


class _Root(Untransformed):
    @staticmethod
    def forward(problem: Problem, slot: _Slot, x: Tensor, *tensors: Tensor) -> "_Outputs":
        del tensors
        with without_autocast(x):
            solution = slot.solve(problem, x.detach())
        slot.solution, known = solution, solution.linearization
        # A start that was a solution already must not leave as the same storage. And what the
        # context keeps must not be an output, which would keep the context.
        value = solution.value
        value = value.clone() if value is slot.start else value.detach()
        handle = None if slot.record is None else x.new_zeros(len(x))
        matrix = known.matrix.detach() if isinstance(known, JacobianLinearization) else None
        return value, matrix, handle

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        problem, slot, _, *tensors = inputs
        value, jacobian, _ = output
        ctx.problem, ctx.records = problem, slot.records
        # Of a record the context keeps no tensor of its own: those are saved.
        ctx.known = slot.solution.linearization if slot.record is None else None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(value, jacobian, *tensors, *slot.records.pack(slot.record))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        needed, records = ctx.needs_input_grad[3:], ctx.records
        if all(cotangent is None for cotangent in cotangents):
            return (None, None, None, *(None for _ in needed))
        refuse_batched(*cotangents)
        value, jacobian, *saved = ctx.saved_tensors
        tensors, record = saved[: len(needed)], records.unpacked(saved[len(needed) :])
        known, function, factors = ctx.known, records.function(), records.factors()
        point = _Point(
            ctx.problem, value, jacobian, tensors, needed, known, record, function, factors
        )
        with without_autocast(value):
            solved, grads = point.pull_back(*cotangents)
        _keep_precision((solved, *grads), (value, *tensors, *cotangents))
        return (None, None, solved, *grads)


_Outputs: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
"""The solution, its whole Jacobian, and the handle of a function of its record."""

# Torch would inspect the signature anew at every call.
_Root.forward.__dict__["__signature__"] = inspect.signature(_Root.forward)


@dataclass(frozen=True)
class _Point:
    """A solution and everything that its derivatives depend on.

    `value` is the output of the node itself and depends on the tensors through it. Their aliases
    do not feed it: differentiating by an alias gives the partial derivative of G, and the graph
    behind the alias carries the second derivatives.
    """

    problem: Problem
    value: Tensor
    jacobian: Tensor | None
    tensors: Sequence[Tensor]
    needed: Sequence[bool]
    known: Linearization | None
    record: Recorded | None
    function: Functional | None
    factors: Factors | None

    def pull_back(
        self, along: Tensor | None, along_jacobian: Tensor | None, along_handle: Tensor | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Gradients by x and by the tensors."""
        along = torch.zeros_like(self.value) if along is None else along
        again, record = torch.is_grad_enabled(), self.record
        if record is not None and not again:
            return self._by_record(record, along, along_handle)
        whole = None if again else self._at_once(along, along_jacobian)
        if whole is not None:
            return whole
        earlier: list[Tensor | None] = [None for _ in self.tensors]
        if along_jacobian is not None:
            by_point, earlier = self._pull_jacobian(along_jacobian)
            along = along + by_point
        if along_handle is not None and self.function is not None:
            by_point, earlier = self._pull_function(self.function, along_handle)
            along = along + by_point
        solved, grads = self._graphed(along) if again else self._plain(along)
        return solved, [added(*pair) for pair in zip(earlier, grads, strict=True)]

    def _by_record(
        self, record: Recorded, along: Tensor, along_handle: Tensor | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """First derivatives without another evaluation, those by the tensors all at once."""
        pulled, function = record.pull_back(self.needed), self.function
        if along_handle is not None and function is not None:
            along = along + pulled.functional(function, along_handle)
        solved = _solve(self._by_factors(), Adjoint(pulled.linearization), along)
        if any(self.needed):
            pulled.value(-solved)
        return solved, pulled.tensors()

    def _by_factors(self) -> Problem:
        """The problem, whose adjoint needs no products where factors of I + J exist."""
        adjoint, factors = self.problem.adjoint, self.factors
        if factors is None or not isinstance(adjoint, Direct | Gmres):
            return self.problem
        return replace(self.problem, adjoint=Factored(factors, adjoint))

    def _pull_function(
        self, function: Functional, along: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Gradients of the function of the record, which can be differentiated again."""
        point, *tensors = _aliases((self.value, *self.tensors))
        image = function(self.problem.at(tensors).linearize(point))
        by_point, *grads = gradients([image], [point, *tensors], (True, *self.needed), [along])
        assert by_point is not None
        return by_point, grads

    def _at_once(
        self, along: Tensor, along_jacobian: Tensor | None
    ) -> tuple[Tensor, list[Tensor | None]] | None:
        """First derivatives as one function, if every system is solved."""
        problem, jacobian = self.problem, self.jacobian
        if jacobian is None or not isinstance(problem.adjoint, Direct):
            return None
        bound, cotangents = problem.at(self.tensors), (along, along_jacobian)
        rtol = relative_tolerance(problem.adjoint.rtol, self.value)
        demand = Demand(tuple(self.needed), rtol)
        results = run(pull_root, bound, self.value, jacobian.detach(), cotangents, demand)
        failures, solved, *grads = results
        if bool(failures):
            return None
        found = iter(grads)
        return solved, [next(found) if n else None for n in self.needed]

    def _pull_jacobian(self, along: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Gradients of ⟨J, along⟩ by the point and by the tensors."""
        wanted = (True, *self.needed)
        if torch.is_grad_enabled():
            point, *tensors = _aliases((self.value, *self.tensors))
            matrix = self.problem.at(tensors).linearize(point).jacobian()
            by_point, *grads = gradients([matrix], [point, *tensors], wanted, [along])
        else:
            bound = self.problem.at(self.tensors)
            by_point, *grads = pull_back_to(bound, self.value, (None, along), wanted)
        assert by_point is not None
        return by_point, grads

    def _plain(self, along: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """First derivatives: one graph of G for the tensors, shared with the adjoint solve."""
        linearization, point = self.known, self.value.detach()
        leaves = leaves_of(self.tensors, self.needed)
        bound = self.problem.at(leaves)
        with torch.set_grad_enabled(any(self.needed)):
            if linearization is None:
                linearization = bound.linearize(point)
                image = linearization.value
            else:
                image = bound(point) if any(self.needed) else point
        solved = _solve(self.problem, Adjoint(linearization), along)
        return solved, gradients([image], leaves, self.needed, [-solved])

    def _graphed(self, along: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """First derivatives that can be differentiated again."""
        problem, value = self.problem, self.value
        solved = _solve_differentiably(problem, Adjoint, value, along, self.tensors)
        aliases = _aliases(self.tensors)
        image = problem.at(aliases)(value) if any(self.needed) else value
        return solved, gradients([image], aliases, self.needed, [-solved])


class _LinearSolve(Untransformed):
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
        refuse_batched(*cotangents)
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
        _keep_precision(grads, (*inputs, solution, other))
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
        point, *tensors = _aliases(inputs) if again else leaves_of(inputs, needed)
        product = problem.at(tensors).linearize(point).jvp(right)
    return gradients([product], [point, *tensors], needed, [-left])


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
    dealt_with = problem.listener is not None and problem.listener(solution)
    if not dealt_with and not solution.solvable:
        error = derivative_error(solution)
        if problem.on_failure == "raise":
            raise error
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    return solution.value


def derivative_error(solution: LinearSolution) -> SolverError:
    """The error of a derivative whose linear system was not solved."""
    return SolverError("derivative of a fixed point", solution.residual, solution.status)


def _keep_precision(grads: Sequence[Tensor | None], inputs: Sequence[Tensor | None]) -> None:
    """Let what is differentiated again be computed as precisely as what was differentiated."""
    if torch.is_grad_enabled():
        without_autocast_backward([g for g in grads if g is not None], inputs)


def _aliases(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.view_as(t) if t.requires_grad else t for t in tensors]
