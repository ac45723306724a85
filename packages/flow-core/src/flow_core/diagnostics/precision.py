"""Running a bijection in another precision without changing it."""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from flow_solvers.precision import float64_device
from torch import Tensor, nn
from torch.func import functional_call

from flow_core.bijection import Bijection
from flow_core.context import Context

Task = Callable[[Bijection, Tensor, Tensor | None], Tensor]


class _Task(nn.Module):
    """Gives `functional_call` a forward that may use every method of the bijection."""

    def __init__(self, bijection: Bijection, task: Task) -> None:
        super().__init__()
        self.bijection = bijection
        self.task = task

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.task(self.bijection, x, context)


def in_precision(
    bijection: Bijection, task: Task, x: Tensor, context: Context, dtype: torch.dtype
) -> Tensor:
    """Run a task with the parameters, the buffers and the input cast to `dtype`."""
    state = {name: _cast(value.detach(), dtype) for name, value in _tensors(bijection)}
    arguments = (_cast(x, dtype), None if context is None else _cast(context, dtype))
    whole = _Task(bijection, task)
    # Ties would swap the tensors of a module that is used twice twice, and put back the wrong ones.
    return cast(Tensor, functional_call(whole, state, arguments, tie_weights=False))


def _tensors(bijection: Bijection) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of every module, once for each, by their names in a `_Task`."""
    for prefix, module in bijection.named_modules(prefix="bijection"):
        own = (module.named_parameters, module.named_buffers)
        for named in own:
            yield from named(prefix, recurse=False)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float64:
        value = value.to(float64_device(value.device))
    return value.to(dtype) if value.is_floating_point() else value
