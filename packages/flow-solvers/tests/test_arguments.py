"""Arguments of a wrong kind are refused where they are given, with what to pass instead."""

from inspect import unwrap
from typing import Any

import pytest
from flow_solvers import (
    Anderson,
    Broyden,
    Direct,
    Fallback,
    Gmres,
    Newton,
    Picard,
    Tolerance,
    require_adjoint,
    require_integer,
    require_kind,
    require_number,
    require_solver,
)


def made(kind: type, *arguments: object, **named: object) -> None:
    """Make an object as it is made where no types are checked."""
    unwrap(kind.__init__)(object.__new__(kind), *arguments, **named)  # type: ignore[misc]  # any


@pytest.mark.parametrize(
    ("kind", "named", "said"),
    [
        (Tolerance, {"rtol": "1e-3"}, "rtol to be a number, got '1e-3'"),
        (Tolerance, {"atol": None}, "atol to be a number, got None"),
        (Picard, {"budget": 2.5}, "budget to be an integer, got 2.5"),
        (Picard, {"damping": "half"}, "damping to be a number, got 'half'"),
        (Picard, {"lipschitz": "0.9"}, "lipschitz to be a number, got '0.9'"),
        (Anderson, {"memory": 2.5}, "memory to be an integer, got 2.5"),
        (Anderson, {"ridge": None}, "ridge to be a number, got None"),
        (Broyden, {"memory": "all"}, "memory to be an integer, got 'all'"),
        (Newton, {"patience": True}, "patience to be an integer, got True"),
        (Gmres, {"restart": 2.5}, "restart to be an integer, got 2.5"),
        (Gmres, {"rtol": "small"}, "rtol to be a number, got 'small'"),
        (Direct, {"rtol": "small"}, "rtol to be a number, got 'small'"),
        (Fallback, {"solvers": Picard()}, "solvers to be a tuple of solvers, got Picard"),
        (Fallback, {"solvers": (Picard,)}, r"got the class Picard; make one: Picard\(\.\.\.\)"),
    ],
)
def test_solvers(kind: type, named: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=f"expected .*{said}"):
        made(kind, **named)


def test_the_two_kinds_of_solvers_are_not_taken_for_each_other() -> None:
    require_solver("solver", Picard())
    require_solver("solver", Fallback((Anderson(), Picard())))
    require_adjoint("adjoint", Gmres())
    with pytest.raises(TypeError, match="not a linear one, got Gmres"):
        require_solver("solver", Gmres())
    with pytest.raises(TypeError, match="not one of fixed points, got Picard"):
        require_adjoint("adjoint", Picard())
    with pytest.raises(TypeError, match=r"solver such as Picard.*, got 'picard'"):
        require_solver("solver", "picard")


def test_what_is_right_passes() -> None:
    require_kind("size", 3, int, "a size")
    require_integer("size", 1, 1)
    require_number("size", 0.5)
    with pytest.raises(ValueError, match="size to be at least 1, got 0"):
        require_integer("size", 0, 1)
    with pytest.raises(TypeError, match=r"got the function made; call it: made\(\)"):
        require_kind("size", made, int, "a size")
