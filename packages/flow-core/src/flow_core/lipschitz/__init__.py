"""Layers with a bounded Lipschitz constant, activations with a known one, and proofs of bounds.

None of these is a bijection: contractions are made of them (`flow_core.maps`). A new activation
inherits `Activation`, in `activations/`, and is given to a net by its name in `ACTIVATIONS` or as
an instance. What inherits `Certified` is found by `lipschitz_certificate` and `repair_lipschitz`.
"""

from flow_core.lipschitz.activations import (
    ACTIVATIONS,
    ELU,
    SELU,
    SLOPE_RESTRICTED,
    Activation,
    ALCLipSiLU,
    CLipSwish,
    CPila,
    CReLU,
    FullSort,
    Identity,
    LeakyLSwish,
    LipschitzCube,
    LipSwish,
    Logistic,
    MaxMin,
    Pila,
    ReLU,
    Sin,
    Softplus,
    SortingActivation,
    Staircase,
    Tanh,
    make_activation,
    make_slope_restricted,
)
from flow_core.lipschitz.batching import effective_weights, lipschitz_layers, update_lipschitz
from flow_core.lipschitz.certified import Certified, UncertifiedNet
from flow_core.lipschitz.certify import (
    conv_certificate,
    conv_norm_exact,
    conv_norm_fft,
    matrix_norm_exact,
)
from flow_core.lipschitz.conv import LipschitzConv2d
from flow_core.lipschitz.layer import Effective, LipschitzLayer
from flow_core.lipschitz.linear import LipschitzLinear
from flow_core.lipschitz.report import certified_maps, lipschitz_certificate, repair_lipschitz
from flow_core.lipschitz.spectral import ExactSVD, GolubKahan, PowerIteration, SpectralMethod
from flow_core.lipschitz.staleness import StaleNormWarning

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "SELU",
    "SLOPE_RESTRICTED",
    "ALCLipSiLU",
    "Activation",
    "CLipSwish",
    "CPila",
    "CReLU",
    "Certified",
    "Effective",
    "ExactSVD",
    "FullSort",
    "GolubKahan",
    "Identity",
    "LeakyLSwish",
    "LipSwish",
    "LipschitzConv2d",
    "LipschitzCube",
    "LipschitzLayer",
    "LipschitzLinear",
    "Logistic",
    "MaxMin",
    "Pila",
    "PowerIteration",
    "ReLU",
    "Sin",
    "Softplus",
    "SortingActivation",
    "SpectralMethod",
    "Staircase",
    "StaleNormWarning",
    "Tanh",
    "UncertifiedNet",
    "certified_maps",
    "conv_certificate",
    "conv_norm_exact",
    "conv_norm_fft",
    "effective_weights",
    "lipschitz_certificate",
    "lipschitz_layers",
    "make_activation",
    "make_slope_restricted",
    "matrix_norm_exact",
    "repair_lipschitz",
    "update_lipschitz",
]
