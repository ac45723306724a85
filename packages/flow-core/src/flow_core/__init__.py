"""Invertible layers, models and distributions defined by fixed points.

* Calls: every method of bijections and flows takes `context=`, numbers per sample, and
  `using=Settings(...)`: estimator, solves (`Solve`), mode, compilation. `record()` collects
  figures.
* `layers` hold bijections without fixed points, `blocks` those defined by them; combinators join
  bijections; `Flow` joins one with a base distribution.
* `maps` are the contractions G that blocks are made of, `lipschitz` what maps are made of: layers
  and activations with known constants (`layers.activations` are bijections, and something else).
* Your own: a layer inherits `Bijection` (`DataDependent`, `ElementwiseBijection` in `layers`), a
  block `FixedPointBlock`, a contraction `LipschitzMap`, an activation `lipschitz.Activation`,
  each a file in the folder of its kind. `testing.check_bijection(layer, x)` holds it to the
  contract.
"""

from flow_core.base import BaseDistribution, StandardNormal
from flow_core.bijection import Bijection, EventShape
from flow_core.blocks import (
    FixedPointBlock,
    Implicit,
    Located,
    Monotone,
    Residual,
    inverse_residual,
)
from flow_core.bounds import Bounds, contraction_for_condition
from flow_core.breakage import Breakage, SampleError
from flow_core.combinators import Chain, Invert, Multiscale
from flow_core.dequantization import (
    Dequantized,
    Dequantizer,
    UniformDequantizer,
    VariationalDequantizer,
    bits_per_dim,
)
from flow_core.diagnostics import Diagnostics, LayerTrace, diagnose, trace_layers
from flow_core.distributions import Conditioned, Flow
from flow_core.initialization import InitializationReport, initialize, reset_initialization
from flow_core.jacobian import jacobian
from flow_core.layers import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    BoundedExpScale,
    Conv1x1,
    ExactConv2d,
    ExponentialConv2d,
    FreeMatrix,
    Geco,
    HalfRangeSigmoidScale,
    HouseholderMatrix,
    InverseConv2d,
    InvertibleMatrix,
    LeakyReLU,
    LearnableLeakyReLU,
    LogitTransform,
    LUMatrix,
    MaskedConv2d,
    Normalize,
    OrthogonalMatrix,
    Permutation,
    RationalQuadraticSpline,
    Reconstruction,
    Reshape,
    ScaleFunction,
    SelfNormConv2d,
    SelfNormLinear,
    SELUTransform,
    SigmoidScale,
    SmoothLeakyReLU,
    SmoothTanh,
    SplitPrior,
    Squeeze,
    SurrogateTerms,
    TrainingSurrogate,
    ZeroConv2d,
    cinc,
    convolutional_conditioner,
    dense_conditioner,
    emerging,
    finc,
    inverse_flow_unit,
    macow_unit,
)
from flow_core.lipschitz import (
    LipschitzConv2d,
    LipschitzLinear,
    lipschitz_certificate,
    make_activation,
    repair_lipschitz,
    update_lipschitz,
)
from flow_core.maps import (
    DenseNet,
    FeedForwardNet,
    LipschitzMap,
    LipschitzNet,
    SandwichNet,
)
from flow_core.models import (
    ContractiveConfig,
    DequantizerConfig,
    FlowConfig,
    image_dequantizer,
    image_flow,
)
from flow_core.passes import Pass
from flow_core.record import BlockSummary, Report, record
from flow_core.settings import Settings, Solve
from flow_core.torch_base import TorchBase
from flow_core.views import frozen

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "Affine",
    "AffineCoupling",
    "BaseDistribution",
    "Bijection",
    "BlockSummary",
    "BoundedExpScale",
    "Bounds",
    "Breakage",
    "Chain",
    "Conditioned",
    "ContractiveConfig",
    "Conv1x1",
    "DenseNet",
    "Dequantized",
    "Dequantizer",
    "DequantizerConfig",
    "Diagnostics",
    "EventShape",
    "ExactConv2d",
    "ExponentialConv2d",
    "FeedForwardNet",
    "FixedPointBlock",
    "Flow",
    "FlowConfig",
    "FreeMatrix",
    "Geco",
    "HalfRangeSigmoidScale",
    "HouseholderMatrix",
    "Implicit",
    "InitializationReport",
    "InverseConv2d",
    "Invert",
    "InvertibleMatrix",
    "LUMatrix",
    "LayerTrace",
    "LeakyReLU",
    "LearnableLeakyReLU",
    "LipschitzConv2d",
    "LipschitzLinear",
    "LipschitzMap",
    "LipschitzNet",
    "Located",
    "LogitTransform",
    "MaskedConv2d",
    "Monotone",
    "Multiscale",
    "Normalize",
    "OrthogonalMatrix",
    "Pass",
    "Permutation",
    "RationalQuadraticSpline",
    "Reconstruction",
    "Report",
    "Reshape",
    "Residual",
    "SELUTransform",
    "SampleError",
    "SandwichNet",
    "ScaleFunction",
    "SelfNormConv2d",
    "SelfNormLinear",
    "Settings",
    "SigmoidScale",
    "SmoothLeakyReLU",
    "SmoothTanh",
    "Solve",
    "SplitPrior",
    "Squeeze",
    "StandardNormal",
    "SurrogateTerms",
    "TorchBase",
    "TrainingSurrogate",
    "UniformDequantizer",
    "VariationalDequantizer",
    "ZeroConv2d",
    "bits_per_dim",
    "cinc",
    "contraction_for_condition",
    "convolutional_conditioner",
    "dense_conditioner",
    "diagnose",
    "emerging",
    "finc",
    "frozen",
    "image_dequantizer",
    "image_flow",
    "initialize",
    "inverse_flow_unit",
    "inverse_residual",
    "jacobian",
    "lipschitz_certificate",
    "macow_unit",
    "make_activation",
    "record",
    "repair_lipschitz",
    "reset_initialization",
    "trace_layers",
    "update_lipschitz",
]
