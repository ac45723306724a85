"""Distributions of the latent of a flow."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.events import per_sample_sum


class BaseDistribution(nn.Module, ABC):
    """A distribution of the latent z with samples of one shape.

    Attributes:
        event_shape: Shape of one z.
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)

    @abstractmethod
    def log_prob(self, z: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch"]:
        """Log-density of each z of a batch, in nats."""

    @abstractmethod
    def rsample(self, count: int) -> Float[Tensor, " batch *event"]:
        """Draw `count` values of z from the device's default generator."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of samples."""

    @property
    def has_rsample(self) -> bool:
        """Whether samples have gradients to what the distribution is made of."""
        return True


@final
class StandardNormal(BaseDistribution):
    """N(0, T²·I).

    Args:
        event_shape: Shape of one z.
        temperature: T; below 1 for samples that are closer to the mode than those of the model.
    """

    _like: Tensor

    def __init__(self, event_shape: Sequence[int], *, temperature: float = 1.0) -> None:
        super().__init__(event_shape)
        if not 0 < temperature < math.inf:
            raise ValueError(f"expected a positive temperature, got {temperature}")
        self.temperature = temperature
        # A buffer follows `.to`, so samples come in the dtype and on the device of the model. It
        # has no value that `to_empty` could lose; `follow` is for states that are assigned.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of samples."""
        return self._like.dtype

    @property
    def is_on_meta(self) -> bool:
        """Whether samples would have no numbers."""
        return self._like.is_meta

    def follow(self, like: Tensor) -> None:
        """Let samples be in the dtype and on the device of a tensor."""
        self._like = like.new_empty(0)

    def extra_repr(self) -> str:
        """Shape shown in the representation of a model."""
        return f"event_shape={tuple(self.event_shape)}"

    def log_prob(self, z: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch"]:
        """−½·‖z/T‖² − D·(½·log 2π + log T)."""
        dims = math.prod(self.event_shape)
        standard = z if self.temperature == 1 else z / self.temperature
        squares = per_sample_sum(standard.square())
        return -0.5 * squares - dims * (0.5 * math.log(2 * math.pi) + math.log(self.temperature))

    def rsample(self, count: int) -> Float[Tensor, " batch *event"]:
        """T·ε with ε ~ N(0, I)."""
        shape = (count, *self.event_shape)
        noise = torch.randn(shape, dtype=self.dtype, device=self._like.device)
        return noise if self.temperature == 1 else self.temperature * noise

    def quantile(self, noise: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch *event"]:
        """z = T·Φ⁻¹(noise), value by value: N(0, T²·I) for uniform numbers.

        Numbers nearer to 0 than a quarter of the precision ε, or to 1 than half of it, count as
        that: |z| stays below 5.5·T in float32 and 8.3·T in float64, and the tails beyond, of mass
        6e-8 and 2e-16 in a value, are drawn at their ends.

        Args:
            noise: In [0, 1], in the dtype of z.
        """
        z: Tensor = torch.special.ndtri(inside_unit_interval(noise))
        return self.temperature * z


def inside_unit_interval(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Numbers in [0, 1], moved from its ends by a quarter and by half of their precision."""
    eps = torch.finfo(x.dtype).eps
    return x.clamp(eps / 4, 1 - eps / 2)
