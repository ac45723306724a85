"""Invertible convolutions: padded on one corner, 1x1, dense, exponential and masked."""

from flow_core.layers.convolutions.conv1x1 import Conv1x1
from flow_core.layers.convolutions.dense import ExactConv2d
from flow_core.layers.convolutions.exponential import ExponentialConv2d
from flow_core.layers.convolutions.inverse_conv import (
    InverseConv2d,
    cinc,
    emerging,
    finc,
    inverse_flow_unit,
)
from flow_core.layers.convolutions.masked import MaskedConv2d, macow_unit

__all__ = [
    "Conv1x1",
    "ExactConv2d",
    "ExponentialConv2d",
    "InverseConv2d",
    "MaskedConv2d",
    "cinc",
    "emerging",
    "finc",
    "inverse_flow_unit",
    "macow_unit",
]
