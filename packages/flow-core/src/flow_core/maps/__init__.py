"""Contractions G: recipes, and what they bind to.

`LipschitzMap` is the base of recipes: it binds raw parameters to a `flow_solvers.BoundMap`.
`LipschitzNet` is the one for layers with activations between them, with a rule of how layers join
(`joins.py`); its kinds are `DenseNet` (concatenates) and `FeedForwardNet` (replaces). `BoundNet` is
such a net bound: a value that holds effective weights. `SandwichNet` is Lipschitz by construction,
and binds to one too. `Activated` is any map with an activation behind it. A `Conditioner` lets a
context shift what the layers of a net compute.
"""

from flow_core.maps.activated import Activated
from flow_core.maps.bound_net import BoundNet
from flow_core.maps.conditioner import Conditioner
from flow_core.maps.linearizations import FirstOrderPart
from flow_core.maps.lipschitz_map import LipschitzMap
from flow_core.maps.net_linearization import DenseLinearization, NetLinearization
from flow_core.maps.nets import DenseNet, FeedForwardNet, LipschitzNet
from flow_core.maps.residual_conditioner import ResidualConditioner
from flow_core.maps.sandwich import SandwichNet

__all__ = [
    "Activated",
    "BoundNet",
    "Conditioner",
    "DenseLinearization",
    "DenseNet",
    "FeedForwardNet",
    "FirstOrderPart",
    "LipschitzMap",
    "LipschitzNet",
    "NetLinearization",
    "ResidualConditioner",
    "SandwichNet",
]
