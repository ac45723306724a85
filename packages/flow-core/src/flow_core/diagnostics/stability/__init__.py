"""How stable an invertible model is: round trips, stretching, gradients from recomputed inputs."""

from flow_core.diagnostics.stability.gradients import GradientAngle, gradient_angle
from flow_core.diagnostics.stability.measuring import StabilityPart, stability_report
from flow_core.diagnostics.stability.picture import draw_stability
from flow_core.diagnostics.stability.reconstruction import (
    FiniteErrors,
    NotFinite,
    RoundTripErrors,
    reconstruction,
)
from flow_core.diagnostics.stability.report import StabilityReport
from flow_core.diagnostics.stability.spectrum import (
    Bracket,
    DenseSpectrum,
    LanczosSpectrum,
    SingularValues,
    Spectrum,
)

__all__ = [
    "Bracket",
    "DenseSpectrum",
    "FiniteErrors",
    "GradientAngle",
    "LanczosSpectrum",
    "NotFinite",
    "RoundTripErrors",
    "SingularValues",
    "Spectrum",
    "StabilityPart",
    "StabilityReport",
    "draw_stability",
    "gradient_angle",
    "reconstruction",
    "stability_report",
]
