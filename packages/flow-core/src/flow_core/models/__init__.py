"""Whole flows made from one config."""

from flow_core.models.architectures import image_flow
from flow_core.models.config import FlowConfig

__all__ = ["FlowConfig", "image_flow"]
