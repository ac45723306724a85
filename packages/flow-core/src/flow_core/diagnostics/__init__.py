"""What a trained flow is worth: inversion, solver effort, certified bounds, log-determinants.

`stability_report` measures invertible models of any library, `diagnose` flows of this one.
"""

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
    "InvertibleMap",
    "LanczosSpectrum",
    "LayerTrace",
    "LogDetCheck",
    "NotFinite",
    "Point",
    "RoundTrip",
    "RoundTripErrors",
    "SingularValues",
    "Spectrum",
    "StabilityPart",
    "StabilityReport",
    "block_bounds",
    "diagnose",
    "draw_stability",
    "gradient_angle",
    "invertible_map",
    "layer_bounds",
    "log_det_check",
    "reconstruction",
    "round_trip",
    "stability_report",
    "trace_layers",
]
