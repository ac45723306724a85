"""Bijections defined by a contraction G: residual, inverse residual, implicit, monotone.

A new kind inherits `FixedPointBlock`, whose `_evaluate` and `_solve` give a `Located` result: a
value, and G linearized there for `_log_det`.
"""

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
