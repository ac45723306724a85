"""Scales and shifts: fixed ones per channel, learned ones per value."""

import math
from collections.abc import Sequence
from typing import final

import torch
from flow_solvers.precision import in_float64
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds, ratio
from flow_core.domain import Domain, LocalBounds
from flow_core.layers.per_channel import require_channels, spread, summed_over_pixels
from flow_core.layers.stretch import from_log_scales, scaled
from flow_core.passes import Direction, Pass


@final
class Normalize(Bijection):
    """y = (x − mean) / std with fixed numbers per channel, on `(batch, c)` or `(batch, c, h, w)`.

    log|det ∂y/∂x| = −(values per channel)·Σ log std.

    Args:
        mean: One number per channel.
        std: One positive number per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        finite = all(map(math.isfinite, (*mean, *std)))
        if len(mean) != len(std) or not mean or not finite or min(std) <= 0:
            raise ValueError(
                "expected as many positive standard deviations as means, all finite, got "
                f"mean={list(mean)}, std={list(std)}"
            )
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.get_default_dtype()))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.get_default_dtype()))

    def extra_repr(self) -> str:
        """Size shown in the representation of a model."""
        return f"channels={self.mean.numel()}"

    def bounds(self) -> Bounds:
        """One over the smallest std, and the largest."""
        smallest, largest = self.std.aminmax()
        return Bounds(ratio(1.0, float(smallest)), float(largest))

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """The same everywhere; the image is that of every channel by itself."""
        std, mean = in_float64(self.std), in_float64(self.mean)
        image = (
            scaled(domain, 1 / std, -mean / std)
            if direction == "transform"
            else scaled(domain, std, mean)
        ).image
        return LocalBounds(self.bounds(), image)

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Refuse other numbers of channels."""
        require_channels(self, x, self.mean.numel(), how)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        y = (x - spread(self.mean, x)) / spread(self.std, x)
        return y, how.log_det(x, lambda: -summed_over_pixels(self.std.log().sum(), x))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        x = y * spread(self.std, y) + spread(self.mean, y)
        return x, how.log_det(y, lambda: summed_over_pixels(self.std.log().sum(), y))


@final
class Affine(Bijection):
    """y = x·e^s + t with a learned s and t for every value of a sample, the identity at first.

    In front of a standard normal base it makes a learned diagonal Gaussian. log|det ∂y/∂x| = Σ s.

    Args:
        shape: Shape of a sample.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.log_scale = nn.Parameter(torch.zeros(tuple(shape)))
        self.shift = nn.Parameter(torch.zeros(tuple(shape)))

    def extra_repr(self) -> str:
        """Shape shown in the representation of a model."""
        return f"shape={tuple(self.shift.shape)}"

    def bounds(self) -> Bounds:
        """The largest scale, and one over the smallest."""
        return from_log_scales(self.log_scale)

    @torch.no_grad()
    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """The same everywhere; the image is that of every value by itself."""
        scale, shift = in_float64(self.log_scale).exp(), in_float64(self.shift)
        image = (
            scaled(domain, scale, shift)
            if direction == "transform"
            else scaled(domain, 1 / scale, -shift / scale)
        ).image
        return LocalBounds(self.bounds(), image)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        y = x * self.log_scale.exp() + self.shift
        return y, how.log_det(x, lambda: self.log_scale.sum().expand(x.shape[0]))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        x = (y - self.shift) * (-self.log_scale).exp()
        return x, how.log_det(y, lambda: -self.log_scale.sum().expand(y.shape[0]))
