"""Bijections compute in the precision of their parameters, whatever the autocast state."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import torch
from flow_solvers import without_autocast
from torch import Tensor

Options = ParamSpec("Options")
Result = TypeVar("Result")

_HALF = (torch.float16, torch.bfloat16)


def without_rounding(method: Callable[Options, Result]) -> Callable[Options, Result]:
    """A method of a bijection that computes in float32 or float64, whatever the autocast state.

    In half precision the two directions would round differently and not be each other's inverse: a
    conditioner that sees its input again with an error of 1e-7 rounds to another number. Where
    autocast is on, layers before may have left half precision, which is widened to float32.
    """
    # Widened arguments are of the types that they were, which a ParamSpec cannot say.
    widening = cast(Callable[..., Result], method)

    @wraps(method)
    def run(*args: Options.args, **kwargs: Options.kwargs) -> Result:
        like = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        if like is None:
            kinds = ", ".join(type(a).__name__ for a in (*args[1:], *kwargs.values()))
            raise TypeError(f"expected a tensor, got {kinds or 'nothing'}")
        rounded = _autocast_is_on(like)
        with without_autocast(like):
            if not rounded:
                return method(*args, **kwargs)
            named = {name: _widened(value) for name, value in kwargs.items()}
            return widening(*[_widened(value) for value in args], **named)

    return run


def _widened(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value


def _autocast_is_on(like: Tensor) -> bool:
    kind = like.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
