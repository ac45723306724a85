"""What layers share that have numbers per channel, on vectors and images."""

import math

from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.passes import Pass


def require_channels(layer: Bijection, x: Tensor, channels: int, how: Pass) -> None:
    """Refuse what is neither `(batch, channels)` nor `(batch, channels, h, w)`.

    Nothing else is taken: an image without a batch would pass for vectors of another size.

    Raises:
        ValueError: If x has another shape.
    """
    if x.ndim not in (2, 4) or x.shape[1] != channels:
        name = "x" if how.direction == "transform" else "y"
        raise ValueError(
            f"{type(layer).__name__}: expected {name} of shape (batch, {channels}) or "
            f"(batch, {channels}, any, any), got {tuple(x.shape)}; the batch comes first: reshape "
            "it, or make the layer for that many channels"
        )


def spread(
    values: Float[Tensor, " channels"], x: Float[Tensor, "batch channels *spatial"]
) -> Float[Tensor, " channels *ones"]:
    """One number per channel in a shape that broadcasts against x."""
    return values.view(-1, *(1,) * (x.ndim - 2))


def summed_over_pixels(
    log_det: Float[Tensor, ""], x: Float[Tensor, "batch channels *spatial"]
) -> Float[Tensor, " batch"]:
    """The log-determinant of samples each of whose pixels has the given one."""
    return (math.prod(x.shape[2:]) * log_det).expand(x.shape[0])
