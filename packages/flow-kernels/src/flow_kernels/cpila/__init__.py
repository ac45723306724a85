"""CPila, the concatenated activation of Monotone Flows, and its derivatives."""

from flow_kernels.cpila.constants import CPILA_LIPSCHITZ
from flow_kernels.cpila.op import cpila, cpila_curvature, cpila_slope, cpila_with_slope

__all__ = ["CPILA_LIPSCHITZ", "cpila", "cpila_curvature", "cpila_slope", "cpila_with_slope"]
