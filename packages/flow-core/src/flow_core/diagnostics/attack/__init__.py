"""How wrong reconstructions near a sample can become, and how wrong they can be at most."""

from flow_core.diagnostics.attack.ascent import Limits, ProjectedAscent
from flow_core.diagnostics.attack.bound import InverseErrorBound, inverse_error_bound
from flow_core.diagnostics.attack.measuring import attack_inverse
from flow_core.diagnostics.attack.result import InverseAttack, StepErrors

__all__ = [
    "InverseAttack",
    "InverseErrorBound",
    "Limits",
    "ProjectedAscent",
    "StepErrors",
    "attack_inverse",
    "inverse_error_bound",
]
