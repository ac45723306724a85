"""The distribution of the noise that makes real numbers of integers."""

from dataclasses import dataclass, field
from typing import Literal

from flow_apps.config.checks import require, require_counts
from flow_apps.config.neighbours import only_with

# Group norms of the conditioner have groups of so many channels.
_GROUP = 16

_VARIATIONAL = only_with(("kind", ("variational",)))
_OF_BLOCKS = only_with(("kind", ("variational",)), ("block", ("residual", "monotone")))


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How integers are dequantised, see `flow_core.Dequantized`.

    Attributes:
        kind: uniform; variational: a conditional flow, trained with the model (Ho et al. 2019).
        block: Kind of its blocks: couplings, or residual or monotone blocks of dense nets (Ahn et
            al. 2022), which are kept contractions like those of the model.
        steps: Its blocks.
        width: Channels inside couplings; of other blocks, between the bottlenecks through which
            their layers see the integers.
        inner: Channels inside of these bottlenecks.
        growth: Channels that every dense layer adds.
        depth: Dense layers of a block.
        dense_activation: Between them, see `flow_core.lipschitz.ACTIVATIONS`.
    """

    kind: Literal["uniform", "variational"] = "uniform"
    block: Literal["coupling", "residual", "monotone"] = field(
        default="coupling", metadata=only_with(("kind", ("variational",)), otherwise="coupling")
    )
    steps: int = field(default=2, metadata=_VARIATIONAL)
    width: int = field(default=32, metadata=_VARIATIONAL)
    inner: int = field(default=512, metadata=_OF_BLOCKS)
    growth: int = field(default=172, metadata=_OF_BLOCKS)
    depth: int = field(default=3, metadata=_OF_BLOCKS)
    dense_activation: str = field(default="cpila", metadata=_OF_BLOCKS)

    def __post_init__(self) -> None:
        unused = self.kind == "uniform" and self.block != "coupling"
        require(not unused, f"block: expected kind=variational for {self.block} blocks of noise")
        require_counts(self, "steps", most=1000)
        require_counts(self, "depth", most=64)
        require_counts(self, "width", "inner", "growth", most=8192)
        if self.block != "coupling":
            for name in ("width", "inner"):
                size, fits = getattr(self, name), getattr(self, name) % _GROUP == 0
                require(fits, f"{name}: expected a multiple of {_GROUP}, got {size}")
