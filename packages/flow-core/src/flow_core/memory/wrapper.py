"""The same for modules that are no bijections of this package."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast, final, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from flow_core.memory.policies import Checkpointed, MemoryPolicy, Reversible
from flow_core.memory.tape import KeptStep, StepLedger


@runtime_checkable
class InvertibleModule(Protocol):
    """What has an inverse."""

    def inverse(self, y: Tensor, *arguments: Tensor) -> Tensor:
        """The input from the output."""
        ...


@final
class MemorySaving(nn.Module):
    """Modules one after the other, that keep no activations for the backward pass.

    For modules of other libraries: each gives one tensor for its first argument, and has an
    `inverse` from that tensor and the same further arguments, where the policy needs one. They are
    registered under their numbers, as in `nn.Sequential`. A `Chain` needs no wrapper: see
    `Settings.memory`.

    Args:
        modules: In their order.
        memory: What is kept.

    Raises:
        TypeError: If a module has no `inverse` that the policy needs.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, *arguments: Tensor) -> Tensor:
            """Same as `forward`."""
            ...

    def __init__(self, modules: Iterable[nn.Module], memory: MemoryPolicy) -> None:
        super().__init__()
        self.memory = memory
        for number, module in enumerate(modules):
            if isinstance(memory, Reversible) and not isinstance(module, InvertibleModule):
                raise TypeError(
                    f"expected modules with an inverse, got {type(module).__name__} without one; "
                    "give it one, or use Checkpointed()"
                )
            self.add_module(str(number), module)

    def forward(
        self, x: Shaped[Tensor, "*input"], *arguments: Shaped[Tensor, "..."]
    ) -> Shaped[Tensor, "*output"]:
        """The output of the last for x; every module gets the further arguments too."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            for _, module in self._in_order():
                x = module(x, *arguments)
            return x
        ledger = StepLedger(self.memory)
        steps = [_step(name, module, arguments) for name, module in self._in_order()]
        size = self.memory.every if isinstance(self.memory, Checkpointed) else 1
        for start in range(0, len(steps), size):
            x, _ = ledger.run(steps[start : start + size], x)
        return x

    def _in_order(self) -> Iterator[tuple[str, nn.Module]]:
        """All of them: `named_children` leaves out a module that comes a second time."""
        held: dict[str, nn.Module] = vars(self)["_modules"]
        yield from held.items()


def _step(name: str, module: nn.Module, arguments: tuple[Tensor, ...]) -> KeptStep:
    return KeptStep(
        name,
        module,
        partial(_forward, module, arguments),
        partial(_inverse, module, arguments),
        arguments,
    )


def _forward(module: nn.Module, arguments: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, Tensor]:
    y = cast(Tensor, module(x, *arguments))
    return y, y.new_zeros(0)


def _inverse(module: nn.Module, arguments: tuple[Tensor, ...], y: Tensor) -> Tensor:
    return cast(InvertibleModule, module).inverse(y, *arguments)
