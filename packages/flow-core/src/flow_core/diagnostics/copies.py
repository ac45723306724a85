"""Copies of models in another precision: of modules, and of objects that hold tensors."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import TypeVar, cast

import torch
from flow_solvers.precision import float64_device
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import (
    _InverseTransform,  # pyright: ignore[reportPrivateUsage]  # no public name
)

ModelT = TypeVar("ModelT")

_SIMPLE = (type, ModuleType, str, bytes, int, float, complex, torch.dtype, torch.device, type(None))


def copied(model: ModelT, dtype: torch.dtype) -> ModelT:
    """A copy in evaluation mode with every floating-point tensor inside it cast to `dtype`.

    The model may be a module, a transform of torch.distributions or of a library like it, a bound
    method, or a container of those. Nothing is shared with it: neither tensors, nor gradients, nor
    what a transform has cached. Tensors that depend on others become leaves.

    Raises:
        TypeError: If it holds tensors that a copy would share, in the closure of a function.
    """
    memo: dict[int, object] = {id(t): _cast(t, dtype) for t in _tensors(model)}
    turned = [value for value in _reachable(model) if isinstance(value, _InverseTransform)]
    for inverse in reversed(turned):
        # torch's own copy of an inverse forgets what it is the inverse of.
        memo[id(inverse)] = copy.deepcopy(inverse.inv, memo).inv
    new = copy.deepcopy(model, memo)
    for value in _reachable(new):
        if isinstance(value, nn.Module):
            value.training = False
        elif isinstance(value, Transform):
            # A transform that returns what it was given last would invert without an error.
            vars(value).update(_cache_size=0, _cached_x_y=(None, None))
    return new


def trained(model: object) -> list[Tensor]:
    """The leaves inside a model that take gradients, each once."""
    return [t for t in _tensors(model) if t.requires_grad and t.is_leaf]


def modules_in(model: object) -> Iterator[nn.Module]:
    """All modules inside a model, each once."""
    return (value for value in _reachable(model) if isinstance(value, nn.Module))


def cast_to(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a precision, on a device that has it; integers stay as they are."""
    if dtype == torch.float64:
        value = value.to(float64_device(value.device))
    return value.to(dtype) if value.is_floating_point() else value


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    cast_ = cast_to(value.detach(), dtype)
    new = cast_.clone() if cast_.data_ptr() == value.data_ptr() else cast_
    if isinstance(value, nn.Parameter):
        return nn.Parameter(new, requires_grad=value.requires_grad)
    return new.requires_grad_(value.requires_grad)


def _tensors(model: object) -> Iterator[Tensor]:
    return (value for value in _reachable(model) if isinstance(value, Tensor))


def _reachable(root: object) -> Iterator[object]:
    """Everything inside an object, itself first, each once."""
    # The values are kept: an id may be given again once its object is gone.
    seen: dict[int, object] = {}
    pending = [root]
    while pending:
        value = pending.pop()
        if isinstance(value, _SIMPLE) or id(value) in seen:
            continue
        seen[id(value)] = value
        yield value
        pending.extend(_contents(value))


def _contents(value: object) -> Iterable[object]:
    """What an object holds itself."""
    match value:
        case FunctionType():
            _refuse_tensors_in_closure(value)
        case MethodType():
            return (value.__self__,)
        case partial():
            return (value.func, value.args, value.keywords)
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            return [part for item in items for part in item]
        case list() | tuple() | set() | frozenset():
            return cast("Iterable[object]", value)
        case _ if not isinstance(value, Tensor):
            # What hooks hold is no part of the model.
            held: dict[str, object] = {**getattr(value, "__dict__", {}), **_slots(value)}
            return [content for name, content in held.items() if "hook" not in name]
        case _:
            pass
    return ()


def _slots(value: object) -> dict[str, object]:
    names = [name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ())]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _refuse_tensors_in_closure(function: FunctionType) -> None:
    for cell in function.__closure__ or ():
        if any(isinstance(held, Tensor) for held in _reachable(_content(cell))):
            raise TypeError(
                "expected a model that can be copied, got the function "
                f"{function.__qualname__} with tensors in its closure, which a copy would share; "
                "pass bound methods, or functools.partial, in its place"
            )


def _content(cell: object) -> object:
    return getattr(cell, "cell_contents", None)
