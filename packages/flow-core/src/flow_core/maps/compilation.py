"""Compiled stretches of a solve, and a compiled linearization that is differentiable.

What is compiled follows from the settings of a call alone. Compiled code is kept here by what it
was compiled for, never in a model: copies and pickles of models share it.
"""
# ruff: noqa: ANN401  (torch gives the context of a Function no type)

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from types import FunctionType
from typing import Any, Protocol, TypeAlias, cast

import torch
from flow_kernels.autograd import is_addressable, is_transformed, keep_signature
from flow_solvers import (
    BoundMap,
    JacobianLinearization,
    pull_back,
    without_autocast,
    without_autocast_backward,
)
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from flow_core.maps.native import FaultyCompilerError, UnsupportedError, compile_run

Tensors: TypeAlias = tuple[Tensor, ...]

StretchOfSolve: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""A function of (bound map, w, *arguments) without side effects."""


class Compilable(BoundMap, Protocol):
    """A bound map that can be compiled."""

    def run(self, function: StretchOfSolve, w: Tensor, *arguments: object) -> tuple[Tensor, ...]:
        """`function(self, w, *arguments)`, without a graph."""
        ...

    def eager(self) -> "Compilable":
        """The same map, never compiled."""
        ...

    def kind(self) -> tuple[object, ...]:
        """Equal for maps that compiled code serves alike."""
        ...

    def is_closed(self) -> bool:
        """Whether the map depends on nothing but its kind and its tensors."""
        ...


Code: TypeAlias = Callable[[Compilable, Tensor, tuple[object, ...]], Tensors]
"""A stretch of a solve that is compiled."""


def run_compiled(
    function: StretchOfSolve, bound: Compilable, w: Tensor, *arguments: object
) -> tuple[Tensor, ...]:
    """`function(bound, w, *arguments)` by code that was compiled for such a map and batch."""
    watched = torch.compiler.is_compiling() or is_transformed()
    if watched or not is_addressable(w, *bound.tensors()):
        with torch.no_grad():
            return function(bound.eager(), w, *arguments)
    leaves = [w, *_leaves(arguments)]
    # Numbers are part of the code, and so is every shape.
    kinds = tuple((t.shape, t.dtype) if isinstance(t, Tensor) else t for t in leaves)
    return _fused(function, (*bound.kind(), *kinds))(bound, w, arguments)


def compiled_linearization(
    bound: Compilable, w: Float[Tensor, "batch dim"]
) -> JacobianLinearization:
    """G(w) and J(w), differentiable to any order; first derivatives are compiled too.

    Backward evaluates the net again: as a whole, and without the intermediate results that autograd
    would have kept.
    """
    numbers = cast("tuple[Tensor, Tensor]", _Whole.apply(bound, w, *bound.tensors()))
    return JacobianLinearization(bound, w, *numbers)


class _Whole(Function):
    @staticmethod
    def forward(bound: Compilable, w: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        del tensors
        return bound.run(_numbers, w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
        ctx.bound, *sources = inputs
        ctx.save_for_backward(*sources)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        w, *tensors = ctx.saved_tensors
        bound = cast(Compilable, ctx.bound.with_tensors(tensors))
        with without_autocast(w):
            if not torch.is_grad_enabled():
                return (None, *bound.run(_pull, w, *cotangents))
            grads = _differentiable_pull(bound.eager(), (w, *tensors), cotangents)
        without_autocast_backward([g for g in grads if g is not None], (w, *tensors, *cotangents))
        return (None, *grads)


keep_signature(_Whole)


def _differentiable_pull(
    bound: BoundMap, sources: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """Gradients by the point and the tensors that can be differentiated again."""
    inputs = [t.view_as(t) if t.requires_grad else t for t in sources]
    outputs = _numbers(bound.with_tensors(inputs[1:]), inputs[0])
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, cotangents, create_graph=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def _leaves(arguments: Iterable[object]) -> Iterator[object]:
    """What is in arguments and in tuples of them."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from _leaves(cast("tuple[object, ...]", argument))
        else:
            yield argument


def _replaced(argument: object, tensors: Iterator[Tensor]) -> object:
    """An argument with other tensors."""
    if isinstance(argument, Tensor):
        return next(tensors)
    if not isinstance(argument, tuple):
        return argument
    parts = [_replaced(part, tensors) for part in cast("tuple[object, ...]", argument)]
    make = getattr(type(argument), "_make", tuple)
    return cast("Callable[[list[object]], object]", make)(parts)


def _numbers(bound: BoundMap, w: Tensor) -> tuple[Tensor, ...]:
    linearization = bound.linearize(w)
    return linearization.value, linearization.jacobian()


def _pull(bound: BoundMap, w: Tensor, value: Tensor, jacobian: Tensor) -> tuple[Tensor, ...]:
    by_w, by_tensors = pull_back(bound, w, value, jacobian)
    return by_w, *by_tensors


@cache
def _fused(function: StretchOfSolve, kind: tuple[object, ...]) -> "_Fused":
    """The function for one use, one batch and one architecture."""
    del kind
    return _Fused(function)


class _Fused:
    """A function that is compiled when it is called first."""

    def __init__(self, function: StretchOfSolve) -> None:
        self._function = function
        self._code: Code | None = None

    def __call__(self, bound: Compilable, w: Tensor, arguments: tuple[object, ...]) -> Tensors:
        if self._code is None:
            self._code = _compiled(self._function, bound, w, arguments)
        return self._code(bound, w, arguments)


def _compiled(
    function: StretchOfSolve, bound: Compilable, w: Tensor, arguments: tuple[object, ...]
) -> Code:
    # Inductor takes tens of seconds for what C takes one for, but it knows every operation, and
    # compiles again where anything has changed that the code depends on.
    try:
        return _by_c(function, bound, w, arguments)
    except FaultyCompilerError as error:
        # Said, because another compiler gives other last digits.
        warnings.warn(f"Inductor compiles what the C compiler could not: {error}", stacklevel=2)
    except UnsupportedError:
        pass
    return _by_inductor(function)


def _by_c(
    function: StretchOfSolve, bound: Compilable, w: Tensor, arguments: tuple[object, ...]
) -> Code:
    if not bound.is_closed():
        raise UnsupportedError("state besides the tensors")
    eager, count = bound.eager(), len(bound.tensors())

    def run(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The function of tensors alone."""
        w, *rest = tensors
        replaced = cast("tuple[object, ...]", _replaced(arguments, iter(rest[count:])))
        return function(eager.with_tensors(rest[:count]), w, *replaced)

    program = compile_run(run, _inputs(bound, w, arguments))
    return lambda bound, w, arguments: tuple(program(_inputs(bound, w, arguments)))


def _inputs(bound: Compilable, w: Tensor, arguments: tuple[object, ...]) -> list[Tensor]:
    return [w, *bound.tensors(), *(t for t in _leaves(arguments) if isinstance(t, Tensor))]


def _by_inductor(function: StretchOfSolve) -> Code:
    fused = torch.compile(_own_code(function), fullgraph=True, dynamic=False)

    def run(bound: Compilable, w: Tensor, arguments: tuple[object, ...]) -> Tensors:
        """The function without a graph."""
        # What is compiled is so for tensors of one kind only: for those without a graph.
        plain = bound.eager().with_tensors([t.detach() for t in bound.tensors()])
        with torch.no_grad():
            return fused(plain, w.detach(), *arguments)

    return run


def _own_code(function: StretchOfSolve) -> StretchOfSolve:
    """The same function with a code object of its own.

    What is compiled hangs on the code object, and only so many variants may hang on one.
    """
    plain = cast(FunctionType, function)
    own = FunctionType(plain.__code__.replace(), plain.__globals__, plain.__name__)
    own.__kwdefaults__, own.__defaults__ = plain.__kwdefaults__, plain.__defaults__
    return own
