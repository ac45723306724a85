"""Likelihoods of integer data under a flow of real numbers.

A new distribution of noise inherits `Dequantizer`.
"""

from flow_core.dequantization.dequantized import (
    Dequantized,
    bits_per_dim,
    importance_weighted,
)
from flow_core.dequantization.dequantizer import Dequantizer, UniformDequantizer
from flow_core.dequantization.padding import NormalPadding, Padding, UniformPadding
from flow_core.dequantization.variational import VariationalDequantizer

__all__ = [
    "Dequantized",
    "Dequantizer",
    "NormalPadding",
    "Padding",
    "UniformDequantizer",
    "UniformPadding",
    "VariationalDequantizer",
    "bits_per_dim",
    "importance_weighted",
]
