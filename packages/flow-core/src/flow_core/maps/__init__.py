"""Contractions G: recipes (`LipschitzMap`) and what they bind to."""

from flow_core.maps.compilation import compile_maps
from flow_core.maps.dense import DenseBound, DenseLinearization, DenseNet
from flow_core.maps.feedforward import FeedForwardBound, FeedForwardLinearization, FeedForwardNet
from flow_core.maps.linearizations import FirstOrder, JacobianLinearization
from flow_core.maps.lipschitz_map import LipschitzMap, frozen
from flow_core.maps.together import bound_together

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
    "bound_together",
    "compile_maps",
    "frozen",
]
