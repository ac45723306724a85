"""Samples that are not finite: which layer broke them, and how."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flow_core.events import per_sample_all

# The square of anything larger overflows in float32.
_LARGE = math.sqrt(torch.finfo(torch.float32).max)


class SampleError(RuntimeError):
    """Samples are not finite; the text names the layers that broke them, and counts."""


@dataclass
class Breakage:
    """Samples that are not finite.

    Attributes:
        samples: How many.
        layers: For each layer that was the first to break some: how many overflowed, and how many
            were out of its range. Samples that are finite when they are computed again, with fewer
            others, are in no layer.
    """

    samples: int = 0
    layers: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def __str__(self) -> str:
        return "; ".join(
            f"{layer}: " + " and ".join(_counted(counts)) for layer, counts in self.layers.items()
        )

    def add(self, other: "Breakage") -> None:
        """Count the samples of another with these."""
        self.samples += other.samples
        for layer, (overflowed, outside) in other.layers.items():
            before = self.layers.get(layer, (0, 0))
            self.layers[layer] = before[0] + overflowed, before[1] + outside


class LayerWatch:
    """Is shown what every layer of a pass does to samples, parts before what they are parts of.

    Args:
        model: Gives layers their names.
        count: Size of the batch.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        self.breakage = Breakage(count)
        self._names = {id(module): name for name, module in model.named_modules()}
        self._known: Tensor | None = None

    def watch(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        """Count the samples that were finite before a layer and are not after it."""
        if len(x) == len(y) == self.breakage.samples:  # else other samples, inside of a layer
            self.note(self._names.get(id(layer), "") or type(layer).__name__, x, y)

    def note(self, name: str, x: Tensor, y: Tensor) -> None:
        """The same, for anything that has a name."""
        broken = ~is_whole(y) & is_whole(x)
        if self._known is not None:
            broken &= ~self._known
        self._known = broken if self._known is None else broken | self._known
        if not bool(broken.any()):
            return
        large = ~per_sample_all(x.abs() <= _LARGE) | ~per_sample_all(~torch.isinf(y))
        overflowed = int((broken & large).sum())
        counts = overflowed, int(broken.sum()) - overflowed
        self.breakage.add(Breakage(layers={name: counts}))


def is_whole(x: Float[Tensor, " batch *event"]) -> Bool[Tensor, " batch"]:
    """Whether all values of a sample are finite."""
    return per_sample_all(torch.isfinite(x))


def _counted(counts: tuple[int, int]) -> list[str]:
    overflowed, outside = counts
    told = [(overflowed, "overflowed"), (outside, "out of its range")]
    return [f"{count} {word}" for count, word in told if count]
