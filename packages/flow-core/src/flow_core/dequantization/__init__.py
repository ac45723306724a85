"""Likelihoods of integer data under a flow of real numbers.

A new distribution of noise inherits `Dequantizer`.
"""

from flow_core.dequantization.dequantized import Dequantized, bits_per_dim
from flow_core.dequantization.dequantizer import Dequantizer, UniformDequantizer
from flow_core.dequantization.variational import VariationalDequantizer

__all__ = [
    "Dequantized",
    "Dequantizer",
    "UniformDequantizer",
    "VariationalDequantizer",
    "bits_per_dim",
]
