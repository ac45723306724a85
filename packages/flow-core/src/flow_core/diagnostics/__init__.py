"""What a trained flow is worth: inversion, solver effort, certified bounds, log-determinants."""

from flow_core.diagnostics.checks import LogDetCheck, RoundTrip, log_det_check, round_trip
from flow_core.diagnostics.layers import LayerTrace, trace_layers
from flow_core.diagnostics.report import Diagnostics, block_bounds, diagnose

__all__ = [
    "Diagnostics",
    "LayerTrace",
    "LogDetCheck",
    "RoundTrip",
    "block_bounds",
    "diagnose",
    "log_det_check",
    "round_trip",
    "trace_layers",
]
