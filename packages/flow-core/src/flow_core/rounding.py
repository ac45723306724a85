"""Bijections compute in the precision of their parameters, whatever the autocast state."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flow_solvers import without_autocast
from torch import Tensor

Options = ParamSpec("Options")
Result = TypeVar("Result")


def without_rounding(method: Callable[Options, Result]) -> Callable[Options, Result]:
    """A method of a bijection that computes in float32 or float64, whatever the autocast state.

    In half precision the two directions would round differently and not be each other's inverse: a
    conditioner that sees its input again with an error of 1e-7 rounds to another number.
    """

    @wraps(method)
    def run(*args: Options.args, **kwargs: Options.kwargs) -> Result:
        like = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        if like is None:
            kinds = ", ".join(type(a).__name__ for a in (*args[1:], *kwargs.values()))
            raise TypeError(f"expected a tensor, got {kinds or 'nothing'}")
        with without_autocast(like):
            return method(*args, **kwargs)

    return run
