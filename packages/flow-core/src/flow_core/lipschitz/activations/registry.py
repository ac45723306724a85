"""Activations by name."""

import difflib

from flow_core.lipschitz.activations.arc_length import ALCLipSiLU
from flow_core.lipschitz.activations.base import Activation
from flow_core.lipschitz.activations.pila import CPila, Pila
from flow_core.lipschitz.activations.rectifier import ELU, SELU, CReLU, LipschitzCube, ReLU
from flow_core.lipschitz.activations.smooth import Identity, Sin, Softplus, Tanh
from flow_core.lipschitz.activations.swish import CLipSwish, LeakyLSwish, LipSwish

ACTIVATIONS: dict[str, type[Activation]] = {
    "alclipsilu": ALCLipSiLU,
    "clipswish": CLipSwish,
    "cpila": CPila,
    "crelu": CReLU,
    "elu": ELU,
    "identity": Identity,
    "lcube": LipschitzCube,
    "leakylswish": LeakyLSwish,
    "lipswish": LipSwish,
    "pila": Pila,
    "relu": ReLU,
    "selu": SELU,
    "sin": Sin,
    "softplus": Softplus,
    "tanh": Tanh,
}


def make_activation(name: str) -> Activation:
    """A new activation by its name in `ACTIVATIONS`.

    Raises:
        ValueError: No activation has this name.
    """
    if name not in ACTIVATIONS:
        close = difflib.get_close_matches(name, ACTIVATIONS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"activation: expected one of {sorted(ACTIVATIONS)}, got '{name}'{hint}")
    return ACTIVATIONS[name]()
