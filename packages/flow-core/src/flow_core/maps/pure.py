"""A dense net in small dimension as pure functions without a graph, and who runs them.

Compilation is chosen from outside and for stated batch sizes, so that what runs compiled follows
from the configuration alone; every other batch size runs eager.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cache, partial
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias, final

import torch
from flow_solvers import PureFunction
from jaxtyping import Float
from torch import Tensor

from flow_core.maps.bound_activation import BoundActivation
from flow_core.maps.dense_functions import dense_value, dense_value_and_jacobian

Pair: TypeAlias = tuple[Tensor, Tensor]
Evaluation: TypeAlias = Callable[..., Tensor | Pair]
Gradients: TypeAlias = tuple[Tensor, tuple[Tensor, ...]]


class DenseParts(NamedTuple):
    """What a dense net is made of."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    activations: tuple[BoundActivation, ...]

    def flat(self) -> tuple[Tensor, ...]:
        """Weights, biases, activation parameters, conditioner features."""
        learned = [t for a in self.activations for t in a.params]
        return (*self.weights, *self.biases, *learned, *self.features)

    def detached(self) -> "DenseParts":
        """The same net without graph; what is compiled is so for tensors of one kind only."""
        return self.with_flat([t.detach() for t in self.flat()])

    def with_flat(self, tensors: Sequence[Tensor]) -> "DenseParts":
        """The same net with other tensors."""
        queue = list(tensors)
        return DenseParts(
            weights=tuple(queue.pop(0) for _ in self.weights),
            biases=tuple(queue.pop(0) for _ in self.biases),
            activations=tuple(
                BoundActivation(a.activation, tuple(queue.pop(0) for _ in a.params))
                for a in self.activations
            ),
            features=tuple(queue.pop(0) for _ in self.features),
        )


@final
class PureDense:
    """The `flow_solvers.PureMap` of a dense net."""

    def __init__(self, parts: DenseParts) -> None:
        self._parts = parts

    def value_and_jacobian(
        self, w: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim dim"]]:
        """G(w) and J(w)."""
        return dense_value_and_jacobian(w, *self._parts)

    def pull_value(
        self, w: Float[Tensor, "batch dim"], along: Float[Tensor, "batch dim"]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradients of ⟨G(w), along⟩ by w and by the tensors."""
        return self._pull(dense_value, w, along)

    def pull_jacobian(
        self, w: Float[Tensor, "batch dim"], along: Float[Tensor, "batch dim dim"]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradients of ⟨J(w), along⟩ by w and by the tensors."""
        return self._pull(dense_value_and_jacobian, w, (torch.zeros_like(w), along))

    def pull_both(
        self,
        w: Float[Tensor, "batch dim"],
        along_value: Float[Tensor, "batch dim"],
        along_jacobian: Float[Tensor, "batch dim dim"],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradients of ⟨G(w), along_value⟩ + ⟨J(w), along_jacobian⟩."""
        return self._pull(dense_value_and_jacobian, w, (along_value, along_jacobian))

    def _pull(self, function: Evaluation, w: Tensor, along: Tensor | Pair) -> Gradients:
        evaluate = partial(_evaluate, function, self._parts)
        # Dynamo traces transforms, and not autograd; without it autograd is the faster one.
        pull = _pull_by_transform if torch.compiler.is_compiling() else _pull_by_autograd
        by_w, *by_tensors = pull(evaluate, along, (w, *self._parts.flat()))
        return by_w, tuple(by_tensors)


def _evaluate(
    function: Evaluation, parts: DenseParts, w: Tensor, *tensors: Tensor
) -> Tensor | Pair:
    return function(w, *parts.with_flat(tensors))


def _pull_by_transform(
    evaluate: Evaluation, along: Tensor | Pair, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    pull: Callable[..., tuple[Tensor, ...]] = torch.func.vjp(evaluate, *inputs)[1]
    return pull(along)


def _pull_by_autograd(
    evaluate: Evaluation, along: Tensor | Pair, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in inputs]
        outputs = evaluate(*leaves)
    return torch.autograd.grad(outputs, leaves, along, materialize_grads=True)


class Runner:
    """Runs pure functions and evaluations operation by operation."""

    @property
    def unroll(self) -> int:
        """Evaluations that are worth making before anyone looks at their result."""
        return 1

    def run(
        self, function: PureFunction, parts: DenseParts, w: Tensor, arguments: tuple[object, ...]
    ) -> tuple[Tensor, ...]:
        """`function(pure_map, w, *arguments)`, without a graph."""
        with torch.no_grad():
            return _run(function, parts, w, arguments)

    def value(self, w: Tensor, parts: DenseParts) -> Tensor:
        """G(w), differentiable."""
        return dense_value(w, *parts)

    def compiles(self, w: Tensor) -> bool:
        """Whether this is compiled for such a batch."""
        del w
        return False


@final
class Inductor(Runner):
    """Runs them compiled for some batch sizes."""

    def __init__(self, batch_sizes: frozenset[int]) -> None:
        self._sizes = batch_sizes
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __reduce__(self) -> tuple[Callable[[frozenset[int]], "Inductor"], tuple[frozenset[int]]]:
        """Copies and pickles of a model compile anew, or share what this process has compiled."""
        return inductor, (self._sizes,)

    @property
    def unroll(self) -> int:
        """What Newton's method usually needs."""
        return 3

    def run(
        self, function: PureFunction, parts: DenseParts, w: Tensor, arguments: tuple[object, ...]
    ) -> tuple[Tensor, ...]:
        """`function(pure_map, w, *arguments)`, without a graph."""
        if not self.compiles(w):
            return super().run(function, parts, w, arguments)
        fused = self._fused(_run, function, w, parts)
        with torch.no_grad():
            results: tuple[Tensor, ...] = fused(function, parts.detached(), w.detach(), arguments)
        return results

    def value(self, w: Tensor, parts: DenseParts) -> Tensor:
        """G(w), differentiable; compiled where no graph is wanted."""
        if torch.is_grad_enabled() or not self.compiles(w):
            return super().value(w, parts)
        value: Tensor = self._fused(dense_value, dense_value, w, parts)(
            w.detach(), *parts.detached()
        )
        return value

    def _fused(
        self, body: Callable[..., Any], use: Callable[..., Any], w: Tensor, parts: DenseParts
    ) -> Callable[..., Any]:
        """`body` compiled for one use, one batch and one architecture."""
        shapes = [(t.shape, t.dtype) for t in parts.flat()]
        key = (use, w.shape, w.device, *shapes, *(type(a.activation) for a in parts.activations))
        if key not in self._compiled:
            self._compiled[key] = torch.compile(_own_code(body), fullgraph=True, dynamic=False)
        return self._compiled[key]

    def compiles(self, w: Tensor) -> bool:
        """Whether this is compiled for such a batch."""
        return len(w) in self._sizes


EAGER = Runner()


@cache
def inductor(batch_sizes: frozenset[int]) -> Inductor:
    """The runner for these batch sizes; nets that share it share what is compiled."""
    return Inductor(batch_sizes)


def _run(
    function: PureFunction, parts: DenseParts, w: Tensor, arguments: tuple[object, ...]
) -> tuple[Tensor, ...]:
    return function(PureDense(parts), w, *arguments)


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with a code object of its own.

    What is compiled hangs on the code object, and only so many variants may hang on one.
    """
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    own.__kwdefaults__, own.__defaults__ = function.__kwdefaults__, function.__defaults__
    return own
