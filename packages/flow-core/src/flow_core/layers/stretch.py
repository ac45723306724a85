"""How far maps of single values can stretch a sample: as far as their slopes."""

import torch
from torch import Tensor

from flow_core.bounds import Bounds, ratio


def from_slopes(lowest: float, highest: float) -> Bounds:
    """Bounds of a map of single values whose slopes lie between two positive numbers."""
    return Bounds(highest, ratio(1.0, lowest))


@torch.no_grad()
def from_log_scales(log_scale: Tensor) -> Bounds:
    """Bounds of a map that multiplies by e^w in one direction and by e^(−w) in the other."""
    lowest, highest = log_scale.aminmax()
    return Bounds(float(highest.exp()), float((-lowest).exp()))
