"""Layers with closed-form inverses: normalisation, reshaping, elementwise maps, split priors."""

from flow_core.layers.actnorm import ActNorm
from flow_core.layers.data_dependent import DataDependent
from flow_core.layers.elementwise import Affine, LogitTransform, Normalize
from flow_core.layers.permutation import Permutation
from flow_core.layers.reshape import Reshape
from flow_core.layers.split_prior import SplitPrior
from flow_core.layers.squeeze import Squeeze

__all__ = [
    "ActNorm",
    "Affine",
    "DataDependent",
    "LogitTransform",
    "Normalize",
    "Permutation",
    "Reshape",
    "SplitPrior",
    "Squeeze",
]
