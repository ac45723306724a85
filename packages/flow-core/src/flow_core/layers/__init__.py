"""Bijections without fixed points: activations, convolutions, couplings, reshaping, priors.

A new one inherits `Bijection`; `ElementwiseBijection` if it acts on single values,
`DataDependent` if its parameters are first set from data.
"""

from flow_core.layers.activations import (
    ElementwiseBijection,
    LeakyReLU,
    LearnableLeakyReLU,
    RationalQuadraticSpline,
    SELUTransform,
    SmoothLeakyReLU,
    SmoothTanh,
)
from flow_core.layers.actnorm import ActNorm
from flow_core.layers.affine import Affine, Normalize
from flow_core.layers.convolutions import (
    Conv1x1,
    ExactConv2d,
    ExponentialConv2d,
    InverseConv2d,
    MaskedConv2d,
    cinc,
    emerging,
    finc,
    inverse_flow_unit,
    macow_unit,
)
from flow_core.layers.couplings import (
    AdditiveCoupling,
    AffineCoupling,
    BoundedExpScale,
    CheckerboardCoupling,
    ConditionerNorm,
    ExpScale,
    HalfRangeSigmoidScale,
    ScaleFunction,
    SigmoidScale,
    UpperHalfSigmoidScale,
    ZeroConv2d,
    convolutional_conditioner,
    dense_conditioner,
    normed_conditioner,
    spectral_conditioner,
)
from flow_core.layers.data_dependent import DataDependent
from flow_core.layers.landmark import Landmark, Sightings, landmarks
from flow_core.layers.logit import LogitTransform
from flow_core.layers.matrices import (
    FreeMatrix,
    HouseholderMatrix,
    InvertibleMatrix,
    LUMatrix,
    OrthogonalMatrix,
)
from flow_core.layers.permutation import Permutation
from flow_core.layers.reshape import Reshape
from flow_core.layers.self_normalizing import (
    Geco,
    Reconstruction,
    SelfNormConv2d,
    SelfNormLinear,
    SurrogateTerms,
    TrainingSurrogate,
)
from flow_core.layers.split_prior import SplitPrior
from flow_core.layers.squeeze import Squeeze

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "Affine",
    "AffineCoupling",
    "BoundedExpScale",
    "CheckerboardCoupling",
    "ConditionerNorm",
    "Conv1x1",
    "DataDependent",
    "ElementwiseBijection",
    "ExactConv2d",
    "ExpScale",
    "ExponentialConv2d",
    "FreeMatrix",
    "Geco",
    "HalfRangeSigmoidScale",
    "HouseholderMatrix",
    "InverseConv2d",
    "InvertibleMatrix",
    "LUMatrix",
    "Landmark",
    "LeakyReLU",
    "LearnableLeakyReLU",
    "LogitTransform",
    "MaskedConv2d",
    "Normalize",
    "OrthogonalMatrix",
    "Permutation",
    "RationalQuadraticSpline",
    "Reconstruction",
    "Reshape",
    "SELUTransform",
    "ScaleFunction",
    "SelfNormConv2d",
    "SelfNormLinear",
    "Sightings",
    "SigmoidScale",
    "SmoothLeakyReLU",
    "SmoothTanh",
    "SplitPrior",
    "Squeeze",
    "SurrogateTerms",
    "TrainingSurrogate",
    "UpperHalfSigmoidScale",
    "ZeroConv2d",
    "cinc",
    "convolutional_conditioner",
    "dense_conditioner",
    "emerging",
    "finc",
    "inverse_flow_unit",
    "landmarks",
    "macow_unit",
    "normed_conditioner",
    "spectral_conditioner",
]
