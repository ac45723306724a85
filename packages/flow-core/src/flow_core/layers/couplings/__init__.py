"""Couplings, the networks that condition them and the scales that they make."""

from flow_core.layers.couplings.checkerboard import CheckerboardCoupling
from flow_core.layers.couplings.conditioners import (
    ZeroConv2d,
    convolutional_conditioner,
    dense_conditioner,
    normed_conditioner,
    spectral_conditioner,
)
from flow_core.layers.couplings.coupling import AdditiveCoupling, AffineCoupling
from flow_core.layers.couplings.norms import ConditionerNorm
from flow_core.layers.couplings.scales import (
    BoundedExpScale,
    ExpScale,
    HalfRangeSigmoidScale,
    ScaleFunction,
    SigmoidScale,
    UpperHalfSigmoidScale,
)

__all__ = [
    "AdditiveCoupling",
    "AffineCoupling",
    "BoundedExpScale",
    "CheckerboardCoupling",
    "ConditionerNorm",
    "ExpScale",
    "HalfRangeSigmoidScale",
    "ScaleFunction",
    "SigmoidScale",
    "UpperHalfSigmoidScale",
    "ZeroConv2d",
    "convolutional_conditioner",
    "dense_conditioner",
    "normed_conditioner",
    "spectral_conditioner",
]
