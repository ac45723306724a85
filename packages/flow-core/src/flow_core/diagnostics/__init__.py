"""What a trained flow is worth: inversion, solver effort, certified bounds, log-determinants.

`stability_report` measures invertible models of any library, `attack_inverse` looks for samples
that they bring back wrong, `diagnose` measures flows of this one.
"""

from flow_core.diagnostics.attack import (
    InverseAttack,
    InverseErrorBound,
    ProjectedAscent,
    StepErrors,
    attack_inverse,
    inverse_error_bound,
)
from flow_core.diagnostics.bounds import layer_bounds
from flow_core.diagnostics.checks import LogDetCheck, RoundTrip, log_det_check, round_trip
from flow_core.diagnostics.invertible import InvertibleMap, Point, invertible_map
from flow_core.diagnostics.layers import LayerTrace, trace_layers
from flow_core.diagnostics.report import Diagnostics, block_bounds, diagnose
from flow_core.diagnostics.stability import (
    Bracket,
    DenseSpectrum,
    FiniteErrors,
    GradientAngle,
    LanczosSpectrum,
    NotFinite,
    RoundTripErrors,
    SingularValues,
    Spectrum,
    StabilityPart,
    StabilityReport,
    draw_stability,
    gradient_angle,
    reconstruction,
    stability_report,
)

__all__ = [
    "Bracket",
    "DenseSpectrum",
    "Diagnostics",
    "FiniteErrors",
    "GradientAngle",
    "InverseAttack",
    "InverseErrorBound",
    "InvertibleMap",
    "LanczosSpectrum",
    "LayerTrace",
    "LogDetCheck",
    "NotFinite",
    "Point",
    "ProjectedAscent",
    "RoundTrip",
    "RoundTripErrors",
    "SingularValues",
    "Spectrum",
    "StabilityPart",
    "StabilityReport",
    "StepErrors",
    "attack_inverse",
    "block_bounds",
    "diagnose",
    "draw_stability",
    "gradient_angle",
    "inverse_error_bound",
    "invertible_map",
    "layer_bounds",
    "log_det_check",
    "reconstruction",
    "round_trip",
    "stability_report",
    "trace_layers",
]
