"""Whole flows made from one config."""

from flow_core.models.architectures import image_flow
from flow_core.models.config import ContractiveConfig, FlowConfig

__all__ = ["ContractiveConfig", "FlowConfig", "image_flow"]
