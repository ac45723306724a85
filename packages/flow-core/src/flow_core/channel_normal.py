"""A latent whose last values are an image with normal channels that learn."""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flow_core.base import BaseDistribution
from flow_core.events import per_sample_sum


@final
class ChannelNormal(BaseDistribution):
    """N(0, I) for the first values of z; N(μ, e^(2s)) for the last, with μ and s of channels.

    With K classes there are K of these, and z has their mixture of equal weights:
    p(z) = 1/K·Σ_k p(z | k), the distribution of z of which no class is told. All begin as N(0, I).
    Source: Kingma & Dhariwal 2018, released code (`learn_top`, `ycond`).

    Args:
        event_shape: Shape of one z.
        top: `(channels, ...)` of the image that the last values of a flattened z are.
        classes: K.

    Raises:
        ValueError: If z has fewer values than the image, or there is no class.
    """

    def __init__(self, event_shape: Sequence[int], top: Sequence[int], *, classes: int = 1) -> None:
        super().__init__(event_shape)
        self.top = tuple(top)
        if classes < 1 or not 0 < math.prod(top) <= self.event_shape.numel():
            raise ValueError(
                f"expected a class and an image of at most {self.event_shape.numel()} values, got "
                f"{classes} and one of {tuple(top)}"
            )
        self.mean = nn.Parameter(torch.zeros(classes, top[0]))
        self.log_scale = nn.Parameter(torch.zeros(classes, top[0]))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of samples."""
        return self.mean.dtype

    def extra_repr(self) -> str:
        """Shapes shown in the representation of a model."""
        return f"event_shape={tuple(self.event_shape)}, top={self.top}, classes={len(self.mean)}"

    def log_prob(self, z: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch"]:
        """log p(z), of the mixture where there are classes."""
        of_classes = self.log_prob_of_classes(z)
        if len(self.mean) == 1:
            return of_classes[:, 0]
        return of_classes.logsumexp(1) - math.log(len(self.mean))

    def log_prob_of_classes(
        self, z: Float[Tensor, " batch *event"]
    ) -> Float[Tensor, "batch classes"]:
        """log p(z | k) of every class."""
        rest, top = self.parts(z)
        mean, log_scale = self._spread(self.mean), self._spread(self.log_scale)
        standard = (top.unsqueeze(1) - mean) * (-log_scale).exp()
        squares = standard.square().flatten(2).sum(2) + per_sample_sum(rest.square()).unsqueeze(1)
        pixels = math.prod(self.top[1:])
        normaliser = 0.5 * self.event_shape.numel() * math.log(2 * math.pi)
        return -0.5 * squares - normaliser - pixels * self.log_scale.sum(1)

    def rsample(self, count: int) -> Float[Tensor, " batch *event"]:
        """Draw `count` values of z, each of a class that is drawn too."""
        classes = torch.randint(len(self.mean), (count,), device=self.mean.device)
        return self.rsample_of(classes)

    def rsample_of(self, classes: Int[Tensor, " batch"]) -> Float[Tensor, " batch *event"]:
        """Draw a z of every given class."""
        size = self.event_shape.numel()
        noise = torch.randn(len(classes), size, dtype=self.dtype, device=self.mean.device)
        rest, top = self.parts(noise)
        mean, log_scale = self._spread(self.mean), self._spread(self.log_scale)
        top = top * log_scale[classes].exp() + mean[classes]
        return torch.cat([rest, top.flatten(1)], 1).view(len(classes), *self.event_shape)

    def parts(self, z: Float[Tensor, " batch *event"]) -> tuple[Tensor, Tensor]:
        """The first values of z, flat, and the image of the last ones."""
        flat, size = z.flatten(1), math.prod(self.top)
        rest, top = flat.split_with_sizes([flat.shape[1] - size, size], 1)
        return rest, top.reshape(len(z), *self.top)

    def _spread(self, values: Tensor) -> Tensor:
        return values.view(*values.shape, *[1] * (len(self.top) - 1))
