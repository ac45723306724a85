"""What the checks of a bijection are made with."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypedDict, cast, get_args

import torch
from flow_solvers import Tolerance
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.blocks import FixedPointBlock
from flow_core.passes import Direction
from flow_core.settings import Settings, Solve

# Solves end well below what finite differences resolve.
_PRECISE = Solve(tolerance=Tolerance(rtol=1e-13))
_CLOSE = {torch.float32: 2e-5, torch.float64: 1e-9}


class Options(TypedDict):
    """What every call is given."""

    context: Tensor | None
    using: Settings


@dataclass(frozen=True)
class Call:
    """One of the four methods, at a point of its domain."""

    direction: Direction
    with_log_det: bool
    case: "Case"

    def __call__(self, point: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """What it gives, one tensor or two."""
        name = f"{self.direction}_and_log_det" if self.with_log_det else self.direction
        method = getattr(self.case.bijection, name)
        result = method(point, context=context, using=self.case.using)
        return cast("tuple[Tensor, ...]", result if self.with_log_det else (result,))

    def at(self) -> Tensor:
        """A point."""
        return self.case.x if self.direction == "transform" else self.case.y


@dataclass(frozen=True)
class Case:
    """A bijection in one precision, with a batch.

    Attributes:
        bijection: A copy of the one that is checked.
        x: Samples.
        context: Their context.
        using: Settings of all calls.
        fresh: A copy that nobody has called yet.
        y: What x is mapped to.
    """

    bijection: Bijection
    x: Tensor
    context: Tensor | None
    using: Settings
    fresh: Bijection = field(init=False)
    y: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fresh", copy.deepcopy(self.bijection))
        y = self.bijection.transform(self.x, context=self.context, using=self.using)
        object.__setattr__(self, "y", y.detach())

    @property
    def options(self) -> Options:
        """What calls are given."""
        return {"context": self.context, "using": self.using}

    @property
    def solves(self) -> bool:
        """Whether a fixed point is solved in some direction."""
        return any(isinstance(module, FixedPointBlock) for module in self.bijection.modules())

    def calls(self) -> Iterator[Call]:
        """All four methods."""
        for direction in get_args(Direction):
            for with_log_det in (False, True):
                yield Call(direction, with_log_det, self)

    def close(self, one: Tensor, other: Tensor) -> bool:
        """Whether two results agree, to the tolerance of the precision."""
        bound = _CLOSE[self.x.dtype]
        return one.shape == other.shape and torch.allclose(one, other, rtol=bound, atol=bound)


def case_of(
    bijection: Bijection,
    x: Tensor,
    context: Tensor | None,
    using: Settings | None,
    dtype: torch.dtype,
) -> Case:
    """A copy of a bijection with its batch in a precision."""
    chosen = Settings() if using is None else using
    if chosen.solve is None and dtype == torch.float64:
        chosen = replace(chosen, solve=_PRECISE)
    given = None if context is None else context.detach().to(dtype)
    return Case(copy.deepcopy(bijection).to(dtype), x.detach().to(dtype), given, chosen)


def attributes(model: nn.Module) -> dict[str, object]:
    """What every module holds, by name, down to the entries of its containers."""
    held: dict[str, object] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            held[f"{name}.{key}"] = value
            held |= {f"{name}.{key}[{entry}]": content for entry, content in _entries(value)}
    return held


def _entries(value: object) -> Iterable[tuple[object, object]]:
    """What a container holds, with its place."""
    if isinstance(value, dict):
        return cast("dict[object, object]", value).items()
    if isinstance(value, list | tuple | set):
        return enumerate(cast("Iterable[object]", value))
    return ()
