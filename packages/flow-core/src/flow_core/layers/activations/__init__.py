"""Invertible activations: maps of single values with known slopes."""

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
