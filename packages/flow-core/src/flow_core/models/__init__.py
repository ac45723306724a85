"""Whole flows, the noise of integers, and classifiers, each made from one config or around one."""

from flow_core.models.architectures import image_flow
from flow_core.models.classifiers import (
    Classified,
    FlowClassifier,
    HybridModel,
    ScaleHeads,
    scale_heads,
)
from flow_core.models.config import ContractiveConfig, DequantizerConfig, FlowConfig
from flow_core.models.dequantizers import image_dequantizer
from flow_core.models.labelled import Labelled, LabelledFlow
from flow_core.models.latent_classifier import LatentClassifier, Latents
from flow_core.models.resnets import ContractiveResNet, ResNetConfig

__all__ = [
    "Classified",
    "ContractiveConfig",
    "ContractiveResNet",
    "DequantizerConfig",
    "FlowClassifier",
    "FlowConfig",
    "HybridModel",
    "Labelled",
    "LabelledFlow",
    "LatentClassifier",
    "Latents",
    "ResNetConfig",
    "ScaleHeads",
    "image_dequantizer",
    "image_flow",
    "scale_heads",
]
