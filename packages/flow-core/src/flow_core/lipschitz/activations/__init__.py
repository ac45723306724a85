"""Activations with proven Lipschitz constants and explicit slopes."""

from flow_core.lipschitz.activations.arc_length import ALCLipSiLU
from flow_core.lipschitz.activations.base import Activation
from flow_core.lipschitz.activations.pila import CPila, Pila
from flow_core.lipschitz.activations.rectifier import ELU, SELU, CReLU, LipschitzCube, ReLU
from flow_core.lipschitz.activations.registry import ACTIVATIONS, make_activation
from flow_core.lipschitz.activations.smooth import Identity, Sin, Softplus, Tanh
from flow_core.lipschitz.activations.sorting import FullSort, MaxMin, SortingActivation
from flow_core.lipschitz.activations.swish import CLipSwish, LeakyLSwish, LipSwish

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "SELU",
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
    "MaxMin",
    "Pila",
    "ReLU",
    "Sin",
    "Softplus",
    "SortingActivation",
    "Tanh",
    "make_activation",
]
