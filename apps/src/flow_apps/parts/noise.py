"""Real numbers in the place of the integers of images."""

from dataclasses import fields

from flow_core.dequantization import Dequantized, Padding
from flow_core.distributions import Flow
from flow_core.models import DequantizerConfig, image_dequantizer
from jaxtyping import Float, UInt8
from torch import Tensor, get_default_dtype

from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.dequantization import NoiseConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.parts.settings import solve


def dequantized(
    flow: Flow,
    noise: NoiseConfig,
    images: ImagesConfig,
    contraction: ContractionConfig,
    *,
    padding: Padding | None = None,
) -> Dequantized:
    """The distribution of the integers of a set of images.

    Args:
        flow: Of real numbers in [0, 1), and of the padding.
        noise: What makes them of integers.
        images: The set.
        contraction: How blocks of the noise are kept contractions.
        padding: Channels of noise that the flow models too, or None.
    """
    config = DequantizerConfig(
        coeff=contraction.coeff,
        concat_bound=contraction.concat_bound,
        **{f.name: getattr(noise, f.name) for f in fields(noise)},
    )
    dequantizer = image_dequantizer(
        config, images.image_shape, images.levels, solve=solve(contraction)
    )
    return Dequantized(flow, dequantizer, images.levels, padding=padding)


def within_bins(
    images: UInt8[Tensor, "batch channels height width"],
    levels: int,
    noise: Float[Tensor, "batch channels height width"] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """Integers as numbers in [0, 1): where the noise in [0, 1) says, or in the middle of bins."""
    place = 0.5 if noise is None else noise
    return (images.to(get_default_dtype()) + place) / levels
