"""Linearizations that remember their evaluation: derivatives need no other one.

Where the linearization at a solution is wanted, for a log-determinant for instance, the evaluation
that ends the solve is recorded, and one record serves all that follows: products with J, the
adjoint solve, and the gradients of the solution and of what was computed from the record.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers.factors import Factors
from flow_solvers.kept import KeptTensors
from flow_solvers.maps import BoundMap, Index, Linearization

Functional: TypeAlias = Callable[[Linearization], Float[Tensor, " batch"]]
"""A number per sample, of products with J and nothing else of a linearization."""
ParametricFunctional: TypeAlias = Callable[..., Float[Tensor, " batch"]]
"""A functional that takes constants behind the linearization."""
Unpack: TypeAlias = Callable[[Sequence[Tensor]], "Recorded"]
"""Makes a record of its tensors."""


@runtime_checkable
class PullBack(Protocol):
    """Collects cotangents; the tensors of the map get their gradients once, for all of them."""

    @property
    def linearization(self) -> Linearization:
        """G linearized there; what products by it have found need not be found again."""
        ...

    def value(self, along: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """Add ⟨G(w), along⟩; its gradient by the point w."""
        ...

    def functional(
        self, function: Functional, weights: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch *shape"]:
        """Add Σ weights·function; its gradient by the point w."""
        ...

    def tensors(self) -> list[Tensor | None]:
        """Gradients of all that was added by `bound.tensors()`; None for those not needed."""
        ...


@runtime_checkable
class Recorded(Protocol):
    """An evaluation with all that derivatives need, without a graph."""

    @property
    def linearization(self) -> Linearization:
        """G linearized there."""
        ...

    def pull_back(self, needed: Sequence[bool]) -> PullBack:
        """Begin a pull-back; `needed` says which of `bound.tensors()` get gradients."""
        ...

    def packed(self) -> tuple[tuple[Tensor, ...], Unpack]:
        """All tensors but those of the map, and what makes the record of them again."""
        ...


@runtime_checkable
class RecordingMap(BoundMap, Protocol):
    """A bound map that can record an evaluation, without a graph."""

    def record(self, w: Float[Tensor, " batch *shape"]) -> Recorded:
        """The evaluation at w; called where gradients are off."""
        ...


@final
class Remembering:
    """A bound map whose solve is to end with a record.

    Attributes:
        last: The last record that was made.
    """

    def __init__(self, bound: RecordingMap) -> None:
        self._bound = bound
        self.last: Recorded | None = None

    def __call__(self, w: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """G(w)."""
        return self._bound(w)

    def linearize(self, w: Float[Tensor, " batch *shape"]) -> Linearization:
        """G(w) and products with J."""
        return self._bound.linearize(w)

    def remember(self, w: Float[Tensor, " batch *shape"]) -> Linearization:
        """G(w) and products with J, from a record that is kept."""
        self.last = self._bound.record(w)
        return self.last.linearization

    def select(self, index: Index) -> BoundMap:
        """The map for a subset of the batch, whose solve is no longer that of all."""
        return self._bound.select(index)

    def tensors(self) -> tuple[Tensor, ...]:
        """Those of the map."""
        return self._bound.tensors()

    def with_tensors(self, tensors: Sequence[Tensor]) -> BoundMap:
        """The map itself with other tensors."""
        return self._bound.with_tensors(tensors)

    def __neg__(self) -> BoundMap:
        """The map -G itself."""
        return -self._bound


class Records:
    """What the forward pass of a solve leaves for its backward pass.

    The tensors of the record are left to autograd, which frees them as soon as they have served.
    Those of what is added afterwards stay as long as the node, so that a second backward pass gives
    the same numbers. Checkpoints can have all of them forgotten and computed again.

    Attributes:
        unpack: Makes the record of the evaluation at the solution, if there is one.
    """

    def __init__(self) -> None:
        self.unpack: Unpack | None = None
        self._rule: ParametricFunctional | None = None
        self._constants: KeptTensors | None = None
        self._factors: KeptTensors | None = None

    def pack(self, record: Recorded | None) -> tuple[Tensor, ...]:
        """The tensors of a record, to be kept by autograd."""
        if record is None:
            return ()
        tensors, self.unpack = record.packed()
        return tensors

    def unpacked(self, tensors: Sequence[Tensor]) -> Recorded | None:
        """The record, if there is one."""
        return None if self.unpack is None else self.unpack(tensors)

    def add_function(self, rule: ParametricFunctional, constants: Sequence[Tensor]) -> bool:
        """Whether the handle of the solve carries the gradient of this function: the first one."""
        if self._rule is not None:
            return False
        self._rule, self._constants = rule, KeptTensors(constants) if constants else None
        return True

    def add_factors(self, factors: Factors) -> None:
        """Factors of I + J at the solution."""
        self._factors = KeptTensors((factors.jacobian, factors.lu, factors.pivots))

    def function(self) -> Functional | None:
        """The function whose gradient the handle of the solve carries, if there is one."""
        rule, kept = self._rule, self._constants
        if rule is None or kept is None:
            return rule
        constants = kept.tensors()
        return lambda linearization: rule(linearization, *constants)

    def factors(self) -> Factors | None:
        """Those of I + J, if there are any."""
        return None if self._factors is None else Factors(*self._factors.tensors())


@final
class SolvedLinearization:
    """G linearized at the solution of a solve, differentiable as a function of x and of G.

    The gradient of one function of products is had from the record in the backward pass of the
    solve itself: `attach` gives the handle for it. Products that are differentiated otherwise
    linearize once more.

    Attributes:
        bound: G.
        point: The solution.
        value: G there, x - w.
        plain: The same without a graph.
    """

    def __init__(
        self,
        bound: BoundMap,
        point: Float[Tensor, " batch *shape"],
        value: Float[Tensor, " batch *shape"],
        plain: Linearization,
        *,
        records: Records,
        handle: Float[Tensor, " batch"],
    ) -> None:
        self.bound, self.point, self.value, self.plain = bound, point, value, plain
        self._records, self._handle = records, handle

    def attach(self, rule: ParametricFunctional, *constants: Tensor) -> Float[Tensor, " batch"]:
        """Zeros whose gradient is that of rule(linearization, *constants)."""
        if self._records.add_function(rule, constants):
            return self._handle
        value = rule(self._differentiable(), *constants)
        return value - value.detach()

    def leave(self, factors: Factors) -> None:
        """Let the adjoint solve have factors of I + J."""
        self._records.add_factors(factors)

    def jvp(self, tangent: Float[Tensor, " *probes"]) -> Float[Tensor, " *probes"]:
        """J t."""
        return self._differentiable().jvp(tangent)

    def vjp(self, cotangent: Float[Tensor, " *probes"]) -> Float[Tensor, " *probes"]:
        """Jᵀ g."""
        return self._differentiable().vjp(cotangent)

    def jacobian(self) -> Float[Tensor, " batch dim dim"]:
        """J as a matrix per sample."""
        return self._differentiable().jacobian()

    def select(self, index: Index) -> Linearization:
        """The same linearization for a subset of the batch."""
        return self._differentiable().select(index)

    def _differentiable(self) -> Linearization:
        graph = torch.is_grad_enabled() and any(
            t.requires_grad for t in (self.point, *self.bound.tensors())
        )
        return self.bound.linearize(self.point) if graph else self.plain
