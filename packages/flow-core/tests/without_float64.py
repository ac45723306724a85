"""A device without float64, as Apple's are, made of CPU tensors; run by `test_without_float64.py`.

Tensors say that they lie on a device "single", whose operations run on the CPU and raise where a
result would be float64. Every bijection of the registry computes there what it does on the CPU.
"""

import copy
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from flow_core.bijection import Bijection
from flow_core.blocks import Monotone
from flow_core.diagnostics import diagnose
from flow_core.lipschitz import lipschitz_certificate, update_lipschitz
from flow_core.settings import Settings, Solve
from flow_logdet import PUBLISHED, Estimator, Exact, Krylov, PowerSeries
from flow_solvers import Anderson, Broyden, Gmres, Picard
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.backend_registration import (
    _setup_privateuseone_for_python_backend,  # pyright: ignore[reportPrivateUsage]  # no public one
)

NAME = "single"
REFUSED = (torch.float64, torch.complex128)
# Its sigmoid allocates below what tensors of Python see; a view keeps weights of one precision.
LEFT_OUT = ("coupling-sigmoid", "frozen")


class OnDevice(Tensor):
    """A tensor of the device."""

    held: Tensor

    @staticmethod
    def __new__(cls: type["OnDevice"], held: Tensor) -> "OnDevice":
        if held.dtype in REFUSED:
            raise TypeError("this device has no float64")
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # the stub of torch lacks `func`
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Any = None,
    ) -> object:
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Torch refuses it for subclasses."""
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Torch refuses it for subclasses."""
        return self.held.numpy(force=force)


def run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    """An operation, on the device where its tensors are or where it is told."""
    place = kwargs.get("device")
    inputs = tree_leaves((args, kwargs))
    if place is None:
        here = any(isinstance(t, OnDevice) for t in inputs)
    else:
        here, kwargs = torch.device(place).type == NAME, {**kwargs, "device": torch.device("cpu")}
    result = func(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
    if func.overloadpacket.__name__.endswith("_") and isinstance(args[0], OnDevice):
        return args[0]
    return tree_map_only(Tensor, wrapped, result) if here else result


def wrapped(t: Tensor) -> Tensor:
    return t if isinstance(t, OnDevice) else OnDevice(t)


def unwrapped(t: object) -> object:
    return t.held if isinstance(t, OnDevice) else t


class Device(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Catches what makes tensors from nothing."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return run(func, args, kwargs or {})


def moved(module: nn.Module) -> nn.Module:
    def put(t: Tensor) -> Tensor:
        return wrapped(t.detach())

    copied = copy.deepcopy(module)
    # The one way that changes parameters and buffers alike.
    result: nn.Module = copied._apply(put)  # type: ignore[no-untyped-call]  # pyright: ignore[reportPrivateUsage]  # torch's
    return result


def close(found: Tensor, expected: Tensor) -> None:
    assert found.device.type == NAME, found.device
    torch.testing.assert_close(found.detach().cpu(), expected.detach(), rtol=2e-4, atol=2e-4)


def without_generators(act: Callable[[], object]) -> None:
    """This device has no generators of its own."""
    with mock.patch.object(torch, "Generator", return_value=torch.Generator()):
        act()


def actions(
    original: Bijection, x: Tensor, context: Tensor | None
) -> Mapping[str, Callable[[], object]]:
    """What is done there, with the right values where they do not depend on chance."""
    bijection = cast(Bijection, moved(original))
    point, given = wrapped(x), None if context is None else wrapped(context)
    using = Settings(estimator=Exact())
    expected = original(x, context=context, using=using)

    def forth() -> None:
        outcome = bijection(point, context=given, using=using)
        for found, right in zip(outcome, expected, strict=True):
            close(found, right)

    def back() -> None:
        close(bijection.inverse(wrapped(expected[0].detach()), context=given), x)

    def backward() -> None:
        y, log_det = bijection(wrapped(x).requires_grad_(), context=given)
        torch.autograd.backward(y.square().sum() - log_det.sum())

    return {
        "forth": forth,
        "back": back,
        "backward": backward,
        "bounds": bijection.bounds,
        "certificate": lambda: lipschitz_certificate(bijection),
        "update": lambda: without_generators(lambda: update_lipschitz(bijection)),
        "diagnose": lambda: diagnose(bijection, point, given),
    }


def estimator_actions(block: Bijection, x: Tensor) -> Mapping[str, Callable[[], object]]:
    """Every estimator and solver in a block."""
    there, point = cast(Bijection, moved(block)), wrapped(x)
    estimators: list[Estimator] = [Krylov(probes=4, tolerance=1e-3), PowerSeries(8, probes=2)]
    estimators += [make() for make in PUBLISHED.values()]
    solves = [Solve(solver=s) for s in (Picard(), Anderson(), Broyden())]
    solves.append(Solve(adjoint=Gmres()))

    def trained(using: Settings) -> None:
        y, log_det = there(point, using=using)
        torch.autograd.backward(y.square().sum() - log_det.sum())
        assert y.device.type == log_det.device.type == NAME

    settings = [Settings(estimator=e) for e in estimators] + [Settings(solve=s) for s in solves]
    return {str(using): partial(trained, using) for using in settings}


def failures(name: str, every: Mapping[str, Callable[[], object]]) -> list[str]:
    found: list[str] = []
    for what, act in every.items():
        try:
            act()
        except Exception:  # all are told
            found.append(f"{name}, {what}:\n{traceback.format_exc(limit=-3)}")
    return found


def main() -> None:
    """Say what went wrong, and how much was done."""
    sys.path.insert(0, str(Path(__file__).parent))
    registry: Any = importlib.import_module("conftest")
    _setup_privateuseone_for_python_backend(NAME)
    wrong: list[str] = []
    with Device():  # type: ignore[no-untyped-call]  # torch's
        chosen = [case for case in registry.CASES if case.name not in LEFT_OUT]
        for case in chosen:
            torch.manual_seed(0)
            bijection = case.make()
            draw = torch.rand if case.unit_interval else torch.randn
            x = draw(registry.BATCH, *case.shape)
            context = None if case.context is None else torch.randn(registry.BATCH, *case.context)
            wrong += failures(case.name, actions(bijection, x, context))
        torch.manual_seed(0)
        wrong += failures(
            "monotone", estimator_actions(Monotone(registry.dense(8)), torch.randn(4, 8))
        )
    print("\n".join(wrong))
    print(f"{len(chosen)} bijections, {len(wrong)} failures", flush=True)
    os._exit(0)  # torch's thread for such a device now and then aborts when the interpreter ends


if __name__ == "__main__":
    main()
