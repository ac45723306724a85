"""What the diagnostics see of an invertible model of any library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast, runtime_checkable

import torch
from flow_solvers import SolverError
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Transform

from flow_core.bijection import Bijection
from flow_core.combinators import Chain
from flow_core.context import Context
from flow_core.diagnostics.copies import cast_to, copied
from flow_core.distributions import Flow
from flow_core.events import per_sample_sum
from flow_core.settings import Settings


@runtime_checkable
class TransformLike(Protocol):
    """A transform in the manner of torch.distributions."""

    def _call(self, x: Tensor) -> Tensor: ...

    def _inverse(self, y: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class InvertibleMap:
    """Two functions that undo each other, and what else is known of them.

    Every function takes a batch, and `context=` where the map uses one. They are bound methods of a
    model, so that `at` can copy the model with them.

    Attributes:
        transform: From x to y.
        inverse: From y to x.
        log_det: log|det ∂y/∂x| at x, or None where the model does not tell.
        uses_context: Whether it takes a context, where it is a part of another.
        parts: Maps whose composition this is, first to last; none for a map that is whole.
    """

    transform: Callable[..., Tensor]
    inverse: Callable[..., Tensor]
    log_det: Callable[..., Tensor] | None = None
    uses_context: bool = False
    parts: "tuple[InvertibleMap, ...]" = ()

    def at(self, dtype: torch.dtype) -> "InvertibleMap":
        """The map of a copy of the model, in evaluation mode and in another precision."""
        return copied(self, dtype)


Invertible: TypeAlias = InvertibleMap | Flow | nn.Module | TransformLike
"""What can be measured, see `invertible_map`."""


@dataclass(frozen=True)
class Point:
    """A batch that is given to a function, with its context.

    Attributes:
        x: The batch.
        context: Of these samples; None where the function gets none.
    """

    x: Float[Tensor, " batch *shape"]
    context: Context = None

    def through(self, function: Callable[..., Tensor]) -> Tensor:
        """What the function gives."""
        return function(self.x) if self.context is None else function(self.x, context=self.context)

    def moved(self, x: Tensor) -> "Point":
        """Other values with the same contexts."""
        return Point(x, self.context)

    def to(self, dtype: torch.dtype) -> "Point":
        """The same in a precision."""
        context = None if self.context is None else cast_to(self.context, dtype)
        return Point(cast_to(self.x, dtype), context)

    def __getitem__(self, index: slice) -> "Point":
        return Point(self.x[index], None if self.context is None else self.context[index])


def invertible_map(model: Invertible, using: Settings | None = None) -> InvertibleMap:
    """The functions of a model.

    Args:
        model: A `Bijection` or a `Flow`; a module whose call gives y, or y and then
            log-determinants of shape (batch,), and whose method `inverse` gives x, alone or first;
            a transform with `_call` and `_inverse`, and with `log_abs_det_jacobian` where it has
            one; or an `InvertibleMap` of bound methods, for models whose methods have other names.
        using: What calls of a `Bijection` do their work with.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(model, InvertibleMap):
        return model
    if isinstance(model, Flow):
        model = model.bijection
    if isinstance(model, Bijection):
        return _of_bijection(model, using)
    if isinstance(model, nn.Module) and callable(getattr(model, "inverse", None)):
        module = _OfModule(model)
        return InvertibleMap(module.transform, module.inverse, module.log_det)
    if isinstance(model, TransformLike):
        found = _OfTransform(model) if isinstance(model, Transform) else _OfTransformLike(model)
        knows = hasattr(model, "log_abs_det_jacobian")
        return InvertibleMap(found.transform, found.inverse, found.log_det if knows else None)
    raise TypeError(
        "expected a Bijection, a Flow, a module with a method inverse, a transform with _call and "
        f"_inverse, or an InvertibleMap of two bound methods, got {type(model).__name__}"
    )


def evaluated(
    function: Callable[..., Tensor], point: Point
) -> tuple[Float[Tensor, " batch *out"], Bool[Tensor, " batch"]]:
    """What a function gives for every sample, without gradients, and which of them no solve failed.

    Where a solve fails, samples are taken one by one, and those that fail alone are NaN.
    """
    try:
        with torch.no_grad():
            y = point.through(function)
        return y, y.new_ones(len(y), dtype=torch.bool)
    except SolverError:
        if len(point.x) == 1:
            return torch.full_like(point.x, torch.nan), point.x.new_zeros(1, dtype=torch.bool)
    results = [evaluated(function, point[i : i + 1]) for i in range(len(point.x))]
    shape = next((y.shape for y, solved in results if solved), point.x[:1].shape)
    values = [y.reshape(shape) for y, _ in results]
    return torch.cat(values), torch.cat([solved for _, solved in results])


@dataclass(frozen=True)
class _OfBijection:
    bijection: Bijection
    using: Settings | None

    def transform(self, x: Tensor, context: Context = None) -> Tensor:
        return self.bijection.transform(x, context=context, using=self.using)

    def inverse(self, y: Tensor, context: Context = None) -> Tensor:
        return self.bijection.inverse(y, context=context, using=self.using)

    def log_det(self, x: Tensor, context: Context = None) -> Tensor:
        return self.bijection(x, context=context, using=self.using)[1]


def _of_bijection(bijection: Bijection, using: Settings | None) -> InvertibleMap:
    found = _OfBijection(bijection, using)
    layers = bijection if isinstance(bijection, Chain) else ()
    parts = (_of_bijection(layer, using) for layer in layers)
    return InvertibleMap(
        found.transform,
        found.inverse,
        found.log_det,
        bijection.uses_context,
        tuple(innermost for part in parts for innermost in part.parts or (part,)),
    )


@dataclass(frozen=True)
class _OfModule:
    module: nn.Module

    def transform(self, x: Tensor, **options: Tensor) -> Tensor:
        return _first(self.module(x, **options))

    def inverse(self, y: Tensor, **options: Tensor) -> Tensor:
        return _first(self.module.inverse(y, **options))  # type: ignore[operator]  # found before

    def log_det(self, x: Tensor, **options: Tensor) -> Tensor:
        match self.module(x, **options):
            case (Tensor(), Tensor() as log_det, *_) if log_det.shape == x.shape[:1]:
                return log_det
            case _:
                raise NotImplementedError("the module gives no log-determinant beside y")


def _first(output: object) -> Tensor:
    return cast("Tensor", output[0] if isinstance(output, tuple | list) else output)


@dataclass(frozen=True)
class _OfTransform:
    """Called as a whole: compositions have no `_call` of their own."""

    inner: Transform

    def transform(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.inner(x))

    def inverse(self, y: Tensor) -> Tensor:
        return cast("Tensor", self.inner.inv(y))

    def log_det(self, x: Tensor) -> Tensor:
        y = self.transform(x)
        told: Tensor = self.inner.log_abs_det_jacobian(x, y)  # type: ignore[no-untyped-call]
        return _summed(told)


@dataclass(frozen=True)
class _OfTransformLike:
    inner: TransformLike

    def transform(self, x: Tensor) -> Tensor:
        return self.inner._call(x)  # pyright: ignore[reportPrivateUsage]  # all that it has

    def inverse(self, y: Tensor) -> Tensor:
        return self.inner._inverse(y)  # pyright: ignore[reportPrivateUsage]

    def log_det(self, x: Tensor) -> Tensor:
        told: Tensor = self.inner.log_abs_det_jacobian(x, self.transform(x))  # type: ignore[attr-defined]  # found before
        return _summed(told)


def _summed(log_det: Tensor) -> Tensor:
    """Of every sample: transforms of single values tell one number for each."""
    return log_det if log_det.ndim == 1 else per_sample_sum(log_det)
