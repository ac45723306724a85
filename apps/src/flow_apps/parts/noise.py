"""The distribution of integer images that a flow and its dequantisation noise make."""

from flow_core.dequantization import Dequantized
from flow_core.distributions import Flow
from flow_core.models import DequantizerConfig, image_dequantizer

from flow_apps.config.dequantization import NoiseConfig
from flow_apps.config.images import ImagesConfig


def dequantized(flow: Flow, noise: NoiseConfig, images: ImagesConfig) -> Dequantized:
    """The distribution of the integers of a set of images."""
    config = DequantizerConfig(kind=noise.kind, steps=noise.steps, width=noise.width)
    dequantizer = image_dequantizer(config, images.image_shape, images.levels)
    return Dequantized(flow, dequantizer, images.levels)
