"""Bijections defined by a contraction G: residual, inverse residual, implicit, monotone."""

from flow_core.blocks.block import FixedPointBlock, Located
from flow_core.blocks.implicit import Implicit
from flow_core.blocks.monotone import Monotone
from flow_core.blocks.residual import Residual, inverse_residual

__all__ = [
    "FixedPointBlock",
    "Implicit",
    "Located",
    "Monotone",
    "Residual",
    "inverse_residual",
]
