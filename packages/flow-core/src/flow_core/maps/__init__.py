"""Contractions G: recipes (`LipschitzMap`) and what they bind to."""

from flow_core.maps.compilation import compile_maps
from flow_core.maps.dense import DenseBound, DenseLinearization, DenseNet
from flow_core.maps.feedforward import FeedForwardBound, FeedForwardLinearization, FeedForwardNet
from flow_core.maps.linearizations import FirstOrder, JacobianLinearization
from flow_core.maps.lipschitz_map import LipschitzMap, frozen

__all__ = [
    "DenseBound",
    "DenseLinearization",
    "DenseNet",
    "FeedForwardBound",
    "FeedForwardLinearization",
    "FeedForwardNet",
    "FirstOrder",
    "JacobianLinearization",
    "LipschitzMap",
    "compile_maps",
    "frozen",
]
