"""Refusals of arguments of a wrong kind, where they are given and not where they are used first."""

from collections.abc import Callable
from inspect import isroutine, signature
from numbers import Integral, Real


def require_kind(name: str, value: object, kind: type | tuple[type, ...], example: str) -> None:
    """Refuse what is no instance of a class or of a protocol.

    A class has the methods of its instances, so that it passes for one until it is called.

    Args:
        name: Of the argument.
        value: What was given.
        kind: What it must be.
        example: What to pass, for the error.

    Raises:
        TypeError: With what was expected, what came and what to do.
    """
    if isinstance(value, type) or not isinstance(value, kind):
        raise wrong_kind(name, value, example)


def require_integer(name: str, value: object, least: int) -> None:
    """Refuse what is no integer, and what is below the least.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise wrong_kind(name, value, "an integer")
    if int(value) < least:
        raise ValueError(f"expected {name} to be at least {least}, got {value}")


def require_number(name: str, value: object) -> float:
    """The value, unless it is no real number; its range is the caller's to check.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise wrong_kind(name, value, "a number")
    return float(value)


def wrong_kind(name: str, value: object, example: str) -> TypeError:
    """The error for an argument of a wrong kind."""
    if isinstance(value, type):
        found, remedy = f"the class {value.__name__}", f"; make one: {value.__name__}(...)"
    elif isroutine(value):
        found, remedy = f"the function {value.__name__}", f"; call it: {value.__name__}()"
    elif isinstance(value, str | int | float | None):
        found, remedy = repr(value), ""
    else:
        found, remedy = type(value).__name__, ""
    return TypeError(f"expected {name} to be {example}, got {found}{remedy}")


def takes(method: Callable[..., object], count: int) -> bool:
    """Whether a method can be called with so many positional arguments."""
    try:
        signature(method).bind(*[None] * count)
    except TypeError:
        return False
    return True
