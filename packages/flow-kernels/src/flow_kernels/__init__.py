"""Fused operations for invertible networks: CPila with its derivatives."""

from flow_kernels.cpila import (
    CPILA_LIPSCHITZ,
    cpila,
    cpila_curvature,
    cpila_slope,
    cpila_with_slope,
)
from flow_kernels.pila import pila, pila_curvature, pila_slope

__all__ = [
    "CPILA_LIPSCHITZ",
    "cpila",
    "cpila_curvature",
    "cpila_slope",
    "cpila_with_slope",
    "pila",
    "pila_curvature",
    "pila_slope",
]
