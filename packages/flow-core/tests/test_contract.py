"""What every bijection promises, for every class of the package (registry: conftest.py)."""

import importlib
import inspect
import pkgutil

import flow_core
import pytest
import torch
from flow_core.bijection import Bijection
from flow_core.combinators import Invert
from flow_core.settings import Settings
from flow_core.testing import CHECKS, check_bijection
from torch import Tensor

single = pytest.mark.parametrize("dtype", [torch.float32], ids=["float32"])
double = pytest.mark.parametrize("dtype", [torch.float64], ids=["float64"])
# What needs a process without shape checks.
COMPILED = "compilation"
# The held weights of a view get no gradient.
LEFT_OUT = {"frozen": "gradients"}
# How many terms its series takes is read off the kernel: torch compiles it in several graphs.
GRAPH_DEPENDS_ON_NUMBERS = {"exponential-conv"}


def concrete_bijections() -> set[type[Bijection]]:
    """Every class in flow_core that can be instantiated."""
    found: set[type[Bijection]] = set()
    for module in pkgutil.walk_packages(flow_core.__path__, "flow_core."):
        for value in vars(importlib.import_module(module.name)).values():
            if (
                inspect.isclass(value)
                and issubclass(value, Bijection)
                and value.__module__.startswith("flow_core.")
                and not inspect.isabstract(value)
            ):
                found.add(value)
    return found


def test_every_concrete_bijection_is_registered(registered: set[type[Bijection]]) -> None:
    missing = sorted(cls.__qualname__ for cls in concrete_bijections() - registered)
    assert not missing, f"add a Case for {missing} to CASES in conftest.py"


def test_concrete_bijections_are_final() -> None:
    classes = concrete_bijections()
    assert classes
    assert not [cls.__name__ for cls in classes if not getattr(cls, "__final__", False)]


def test_public_methods_are_defined_once() -> None:
    public = ("transform", "inverse", "transform_and_log_det", "inverse_and_log_det", "forward")
    for cls in concrete_bijections():
        for name in (*public, "initialize"):
            assert getattr(cls, name) is getattr(Bijection, name), f"{cls.__name__}.{name}"


@single
@pytest.mark.parametrize("check", [name for name in CHECKS if name != COMPILED])
def test_promise(
    case_name: str, bijection: Bijection, x: Tensor, context: Tensor | None, check: str
) -> None:
    others = CHECKS.keys() - {check} | {LEFT_OUT.get(case_name, COMPILED)}
    check_bijection(bijection, x, context=context, leave_out=others)


@single
@pytest.mark.compile
def test_promise_of_compilation(
    case_name: str, bijection: Bijection, x: Tensor, context: Tensor | None
) -> None:
    if case_name in GRAPH_DEPENDS_ON_NUMBERS:
        torch.compiler.reset()
        compiled = torch.compile(bijection.transform, backend="aot_eager")
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), bijection.transform(x))
    else:
        check_bijection(bijection, x, context=context, leave_out=CHECKS.keys() - {COMPILED})


@double
@pytest.mark.cases("small")
@pytest.mark.parametrize("direction", ["transform", "inverse"])
def test_second_derivatives(
    bijection: Bijection, x: Tensor, context: Tensor | None, using: Settings, direction: str
) -> None:
    module = bijection if direction == "transform" else Invert(bijection)
    point = x if direction == "transform" else bijection.transform(x, context=context, using=using)
    parameter = next((p for p in module.parameters() if p.requires_grad), None)

    def run(point: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = module(point, context=context, using=using)
        return y.sin(), (y.reshape(len(y), -1).sum(1) * log_det).sin()

    for p in module.parameters():
        p.requires_grad_(p is parameter)
    assert torch.autograd.gradgradcheck(
        run, point.detach().requires_grad_(), eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True
    )


@single
@pytest.mark.cases("stateful")
def test_state_dict_round_trip(
    bijection: Bijection, stranger: Bijection, x: Tensor, context: Tensor | None
) -> None:
    stranger.load_state_dict(bijection.state_dict())
    found, expected = stranger(x, context=context), bijection(x, context=context)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
