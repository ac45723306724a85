"""What the certified bounds of the maps say about the blocks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from flow_core.blocks import FixedPointBlock, Implicit, Monotone, Residual
from flow_core.combinators import Invert
from flow_core.lipschitz import certified_maps


@dataclass(frozen=True)
class BlockBound:
    """Proven bounds of one block; infinite where a map is not certified below 1.

    Attributes:
        maps: Certified Lipschitz constant of G, or of G_x and G_z.
        transform: Lipschitz constant of the block as the model uses it forward.
        inverse: Lipschitz constant of its inverse.
    """

    maps: tuple[float, ...]
    transform: float
    inverse: float

    def distance(self, residual: float) -> float:
        """How far, rms, a solve of the block with that residual is from the exact solution."""
        return _ratio(residual, 1 - max(self.maps))


def block_bounds(model: nn.Module) -> dict[str, BlockBound]:
    """Bi-Lipschitz bounds of every use of a fixed-point block, by module name.

    With L the constant of G: a residual block has 1 + L and 1/(1 − L), an implicit one
    (1 + L_x)/(1 − L_z) and (1 + L_z)/(1 − L_x), a monotone one (1 + L)/(1 − L) both ways. The
    products over the blocks bound how far the whole model stretches its input and its output.
    Source: Behrmann et al. 2021 (Understanding and mitigating exploding inverses), table 1.
    """
    certificates = {id(m): m.certificate() for m in certified_maps(model).values()}
    return {name: _bound(block, certificates, inverted) for name, block, inverted in _blocks(model)}


def _blocks(model: nn.Module) -> Iterator[tuple[str, FixedPointBlock, bool]]:
    """Every use of a block, with its name and whether it is used backwards."""
    uses = list(model.named_modules(remove_duplicate=False))
    inverts = [f"{name}." if name else "" for name, module in uses if isinstance(module, Invert)]
    for name, module in uses:
        if isinstance(module, FixedPointBlock):
            yield name, module, sum(name.startswith(outer) for outer in inverts) % 2 == 1


def _bound(block: FixedPointBlock, certificates: dict[int, float], inverted: bool) -> BlockBound:
    maps: tuple[float, ...]
    if isinstance(block, Implicit):
        maps = (certificates[id(block.g_x)], certificates[id(block.g_z)])
        there, back = _ratio(1 + maps[0], 1 - maps[1]), _ratio(1 + maps[1], 1 - maps[0])
    elif isinstance(block, Monotone):
        maps = (certificates[id(block.g)],)
        there = back = _ratio(1 + maps[0], 1 - maps[0])
    elif isinstance(block, Residual):
        maps = (certificates[id(block.g)],)
        there, back = 1 + maps[0], _ratio(1.0, 1 - maps[0])
    else:
        raise TypeError(
            f"expected a Residual, Implicit or Monotone block, got {type(block).__name__}; add "
            "its bounds here"
        )
    return BlockBound(maps, *((back, there) if inverted else (there, back)))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.inf
