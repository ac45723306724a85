"""What a trained flow is worth: inversion, solver effort, certified bounds, log-determinants."""

from flow_core.diagnostics.bounds import BlockBound, block_bounds
from flow_core.diagnostics.checks import LogDetCheck, RoundTrip, log_det_check, round_trip
from flow_core.diagnostics.layers import LayerTrace, trace_layers
from flow_core.diagnostics.report import Diagnostics, diagnose

__all__ = [
    "BlockBound",
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
