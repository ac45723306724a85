"""Whole flows, and the noise of integers, each made from one config."""

from flow_core.models.architectures import image_flow
from flow_core.models.config import ContractiveConfig, DequantizerConfig, FlowConfig
from flow_core.models.dequantizers import image_dequantizer

__all__ = [
    "ContractiveConfig",
    "DequantizerConfig",
    "FlowConfig",
    "image_dequantizer",
    "image_flow",
]
