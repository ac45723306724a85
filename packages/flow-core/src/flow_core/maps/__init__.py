"""Contractions G: recipes (`LipschitzMap`) and what they bind to."""

from flow_core.maps.bound_net import BoundNet, DenseLinearization, NetLinearization
from flow_core.maps.linearizations import FirstOrderPart
from flow_core.maps.lipschitz_map import LipschitzMap
from flow_core.maps.nets import DenseNet, FeedForwardNet, LipschitzNet

__all__ = [
    "BoundNet",
    "DenseLinearization",
    "DenseNet",
    "FeedForwardNet",
    "FirstOrderPart",
    "LipschitzMap",
    "LipschitzNet",
    "NetLinearization",
]
