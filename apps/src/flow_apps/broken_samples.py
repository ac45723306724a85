"""Why samples are not finite: the layer that broke them, and how."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from flow_core.bijection import Bijection
from torch import Tensor, nn

# The square of anything larger overflows in float32.
_LARGE = math.sqrt(torch.finfo(torch.float32).max)


@dataclass
class Breakage:
    """What the layers of one pass did to samples.

    Attributes:
        found: For each layer that was the first to break samples: how many overflowed, and how many
            were out of its range.
    """

    found: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def __str__(self) -> str:
        return "; ".join(
            f"{layer}: " + " and ".join(_counted(counts)) for layer, counts in self.found.items()
        )

    def note(self, name: str, x: Tensor, y: Tensor) -> None:
        """Count the samples that were finite before a layer and are not after it."""
        before, after = x.flatten(1), y.flatten(1)
        broken = torch.isfinite(before).all(1) & ~torch.isfinite(after).all(1)
        if not bool(broken.any()):
            return
        large = before.abs().amax(1) > _LARGE
        overflowed = broken & (torch.isinf(after).any(1) | large)
        counts = self.found.setdefault(name, [0, 0])
        counts[0] += int(overflowed.sum())
        counts[1] += int((broken & ~overflowed).sum())


@contextmanager
def breakage(model: nn.Module) -> Generator[Breakage, None, None]:
    """Watch the innermost layers of a model while it samples."""
    watched = Breakage()
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Bijection) and not _holds_bijections(module)
    }
    handles = [_watch(watched, name, layer) for name, layer in layers.items()]
    try:
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def _watch(watched: Breakage, name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
    def hook(_module: nn.Module, inputs: tuple[object, ...], outputs: object) -> None:
        """Compare what went in and what came out."""
        result = cast(tuple[object, ...], outputs if isinstance(outputs, tuple) else (outputs,))
        x, y = inputs[0], result[0]
        if isinstance(x, Tensor) and isinstance(y, Tensor) and len(x) == len(y):
            watched.note(name, x, y)

    return layer.register_forward_hook(hook)


def _holds_bijections(module: nn.Module) -> bool:
    return any(isinstance(inner, Bijection) for inner in list(module.modules())[1:])


def _counted(counts: list[int]) -> list[str]:
    overflowed, outside = counts
    told = [(overflowed, "overflowed"), (outside, "out of its range")]
    return [f"{count} {word}" for count, word in told if count]
