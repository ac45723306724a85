"""Running a bijection in another precision without changing it."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flow_core.bijection import Bijection, Context

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
    tensors = [*bijection.named_parameters(), *bijection.named_buffers()]
    state = {f"bijection.{name}": _cast(value.detach(), dtype) for name, value in tensors}
    arguments = (_cast(x, dtype), None if context is None else _cast(context, dtype))
    return cast(Tensor, functional_call(_Task(bijection, task), state, arguments))


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value
