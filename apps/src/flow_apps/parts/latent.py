"""Images by way of their latents: reconstructions, and what lies between two images."""

import torch
from flow_core.dequantization import Dequantized
from flow_core.settings import Settings
from jaxtyping import Float, UInt8
from torch import Tensor

Integers = UInt8[Tensor, "count channels height width"]


def encoded(
    model: Dequantized, images: Integers, using: Settings | None = None
) -> Float[Tensor, " count *latent"]:
    """Latents of images in the middle of their bins, and of a padding."""
    device = next(model.parameters()).device
    return model.flow.bijection.transform(model.centres(images.to(device)), using=using)


def decoded(
    model: Dequantized, z: Float[Tensor, " count *latent"], using: Settings | None = None
) -> Float[Tensor, "count channels height width"]:
    """The images of latents, in [0, 1) where the model has learnt that; without a padding."""
    return model.visible(model.flow.bijection.inverse(z, using=using))


def between(
    first: Float[Tensor, " pairs *latent"], second: Float[Tensor, " pairs *latent"], steps: int
) -> Float[Tensor, " pairs steps *latent"]:
    """Latents on straight lines: z_i = (1 − t_i)·z + t_i·z', t_i = i/(steps − 1)."""
    t = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device)
    t = t.reshape(1, steps, *[1] * (first.ndim - 1))
    return torch.lerp(first.unsqueeze(1), second.unsqueeze(1), t)


def interpolated(
    model: Dequantized,
    z: Float[Tensor, " count *latent"],
    images: Float[Tensor, "count channels height width"],
    steps: int,
    using: Settings | None = None,
) -> Float[Tensor, "pairs steps channels height width"]:
    """The images of latents on straight lines, of every pair from one image to the other.

    Args:
        model: The distribution of the images.
        z: Latents: those of the first half are at the beginnings of lines, the others at the ends.
        images: The images of z, which are not computed once more.
        steps: Images of every line, both ends among them: at least two.
        using: What solves do their work with.
    """
    (z_first, z_last), (first, last) = (torch.chunk(x, 2) for x in (z, images))
    inner = between(z_first, z_last, steps)[:, 1:-1]
    found = decoded(model, inner.flatten(0, 1), using)
    rows = found.reshape(len(first), steps - 2, *found.shape[1:])
    return torch.cat([first.unsqueeze(1), rows, last.unsqueeze(1)], 1)
