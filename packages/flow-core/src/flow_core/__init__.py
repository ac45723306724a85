"""Invertible layers, models and distributions defined by fixed points.

Combinators and blocks are bijections; `maps` are the contractions that blocks are made of;
`Flow` joins a bijection with a base distribution.
"""

from flow_core.base import Base, StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import (
    FixedPointBlock,
    Implicit,
    Monotone,
    Residual,
    Solve,
    inverse_residual,
    with_estimator,
)
from flow_core.combinators import Chain, Invert, Multiscale
from flow_core.dequantization import Dequantized, Dequantizer, UniformDequantizer, bits_per_dim
from flow_core.diagnostics import Diagnostics, diagnose
from flow_core.distributions import Conditioned, Flow
from flow_core.initialization import InitializationReport, initialize, reset_initialization
from flow_core.jacobian import jacobian
from flow_core.layers import (
    ActNorm,
    Affine,
    LogitTransform,
    Normalize,
    Permutation,
    Reshape,
    SplitPrior,
    Squeeze,
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
    bound_together,
    compile_maps,
    frozen,
)
from flow_core.record import BlockSummary, Report, record

__all__ = [
    "ActNorm",
    "Affine",
    "Base",
    "Bijection",
    "BlockSummary",
    "Chain",
    "Conditioned",
    "DenseNet",
    "Dequantized",
    "Dequantizer",
    "Diagnostics",
    "FeedForwardNet",
    "FixedPointBlock",
    "Flow",
    "Implicit",
    "InitializationReport",
    "Invert",
    "LipschitzConv2d",
    "LipschitzLinear",
    "LipschitzMap",
    "LogitTransform",
    "Monotone",
    "Multiscale",
    "Normalize",
    "Permutation",
    "Report",
    "Reshape",
    "Residual",
    "Solve",
    "SplitPrior",
    "Squeeze",
    "StandardNormal",
    "UniformDequantizer",
    "bits_per_dim",
    "bound_together",
    "compile_maps",
    "diagnose",
    "frozen",
    "initialize",
    "inverse_residual",
    "jacobian",
    "lipschitz_certificate",
    "make_activation",
    "record",
    "repair_lipschitz",
    "reset_initialization",
    "update_lipschitz",
    "with_estimator",
]
