"""Bijections defined by a contraction G: residual, inverse residual, implicit, monotone."""

from flow_core.blocks.block import FixedPointBlock, with_estimator
from flow_core.blocks.implicit import Implicit
from flow_core.blocks.monotone import Monotone
from flow_core.blocks.residual import Residual, inverse_residual
from flow_core.blocks.solve import Solve

__all__ = [
    "FixedPointBlock",
    "Implicit",
    "Monotone",
    "Residual",
    "Solve",
    "inverse_residual",
    "with_estimator",
]
