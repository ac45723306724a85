"""Activations with proven Lipschitz constants and explicit slopes."""

from flow_core.lipschitz.activations.arc_length import ALCLipSiLU
from flow_core.lipschitz.activations.base import Activation
from flow_core.lipschitz.activations.pila import CPila, Pila
from flow_core.lipschitz.activations.rectifier import ELU, SELU, CReLU, LipschitzCube, ReLU
from flow_core.lipschitz.activations.registry import (
    ACTIVATIONS,
    SLOPE_RESTRICTED,
    make_activation,
    make_slope_restricted,
)
from flow_core.lipschitz.activations.smooth import (
    Identity,
    Logistic,
    Sin,
    Softplus,
    Staircase,
    Tanh,
)
from flow_core.lipschitz.activations.sorting import FullSort, MaxMin, SortingActivation
from flow_core.lipschitz.activations.swish import CLipSwish, LeakyLSwish, LipSwish

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
    "FullSort",
    "Identity",
    "LeakyLSwish",
    "LipSwish",
    "LipschitzCube",
    "Logistic",
    "MaxMin",
    "Pila",
    "ReLU",
    "Sin",
    "Softplus",
    "SortingActivation",
    "Staircase",
    "Tanh",
    "make_activation",
    "make_slope_restricted",
]
