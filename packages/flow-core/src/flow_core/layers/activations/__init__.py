"""Invertible activations: bijections of single values with known slopes.

Activations of contractions, which need not be invertible, are in `flow_core.lipschitz`.
"""

from flow_core.layers.activations.base import ElementwiseBijection
from flow_core.layers.activations.leaky_relu import LeakyReLU, LearnableLeakyReLU
from flow_core.layers.activations.selu import SELUTransform
from flow_core.layers.activations.smooth import SmoothLeakyReLU, SmoothTanh
from flow_core.layers.activations.spline import RationalQuadraticSpline

__all__ = [
    "ElementwiseBijection",
    "LeakyReLU",
    "LearnableLeakyReLU",
    "RationalQuadraticSpline",
    "SELUTransform",
    "SmoothLeakyReLU",
    "SmoothTanh",
]
