"""Activations by name."""

import copy
import difflib

from flow_core.lipschitz.activations.arc_length import ALCLipSiLU
from flow_core.lipschitz.activations.base import Activation
from flow_core.lipschitz.activations.pila import CPila, Pila
from flow_core.lipschitz.activations.rectifier import ELU, SELU, CReLU, LipschitzCube, ReLU
from flow_core.lipschitz.activations.smooth import (
    Identity,
    Logistic,
    Sin,
    Softplus,
    Staircase,
    Tanh,
)
from flow_core.lipschitz.activations.sorting import FullSort, MaxMin
from flow_core.lipschitz.activations.swish import CLipSwish, LeakyLSwish, LipSwish

ACTIVATIONS: dict[str, type[Activation]] = {
    "alclipsilu": ALCLipSiLU,
    "clipswish": CLipSwish,
    "cpila": CPila,
    "crelu": CReLU,
    "elu": ELU,
    "fullsort": FullSort,
    "identity": Identity,
    "lcube": LipschitzCube,
    "leakylswish": LeakyLSwish,
    "lipswish": LipSwish,
    "logistic": Logistic,
    "maxmin": MaxMin,
    "pila": Pila,
    "relu": ReLU,
    "selu": SELU,
    "sin": Sin,
    "softplus": Softplus,
    "staircase": Staircase,
    "tanh": Tanh,
}


def make_activation(activation: str | Activation) -> Activation:
    """A new activation with parameters of its own.

    Args:
        activation: A name in `ACTIVATIONS`, or an activation to copy.

    Raises:
        ValueError: No activation has this name.
        TypeError: It is neither a name nor an activation.
    """
    if isinstance(activation, Activation):
        return copy.deepcopy(activation)
    if not isinstance(activation, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"activation: expected a name or an instance of Activation, got {activation!r}"
        )
    return ACTIVATIONS[known_name(activation)]()


SLOPE_RESTRICTED = tuple(name for name, kind in ACTIVATIONS.items() if kind.slope_restricted)
"""Names of those with slopes in [0, 1]."""


def make_slope_restricted(activation: str | Activation) -> Activation:
    """A new activation with slopes in [0, 1].

    Raises:
        ValueError: No activation has this name, or its slopes are others.
        TypeError: It is neither a name nor an activation.
    """
    made = make_activation(activation)
    if not made.slope_restricted:
        raise ValueError(
            f"activation: expected slopes in [0, 1], as of {', '.join(SLOPE_RESTRICTED)}, got "
            f"{activation!r}, with which the Lipschitz bound would not hold"
        )
    return made


def known_name(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: No activation has it.
    """
    if name not in ACTIVATIONS:
        close = difflib.get_close_matches(name, ACTIVATIONS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"activation: expected one of {sorted(ACTIVATIONS)}, got '{name}'{hint}")
    return name
