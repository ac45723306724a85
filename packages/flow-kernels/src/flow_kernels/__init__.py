"""Fused operations for invertible networks: CPila with its derivatives, inverse convolution."""

from flow_kernels.cpila import (
    CPILA_LIPSCHITZ,
    cpila,
    cpila_curvature,
    cpila_slope,
    cpila_with_slope,
)
from flow_kernels.inverse_conv import Order, inverse_conv2d, padded_conv2d
from flow_kernels.pila import pila, pila_curvature, pila_slope

__all__ = [
    "CPILA_LIPSCHITZ",
    "Order",
    "cpila",
    "cpila_curvature",
    "cpila_slope",
    "cpila_with_slope",
    "inverse_conv2d",
    "padded_conv2d",
    "pila",
    "pila_curvature",
    "pila_slope",
]
