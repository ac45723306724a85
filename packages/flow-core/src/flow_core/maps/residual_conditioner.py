"""Deep convolutions of a context that shift what dense layers write."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.context import Context
from flow_core.maps.bound_net import BoundNet
from flow_core.maps.conditioner import Conditioner
from flow_core.maps.operators import affine

_GROUP = 16


@final
class ResidualConditioner(Conditioner):
    """A 3x3 convolution, three bottlenecks, then one bottleneck for what each dense layer writes.

    Layer i of a `DenseNet` then writes φᵢ + sᵢ(context), [h, φᵢ + sᵢ] being what is read. A later
    layer W reads W[h, φᵢ] + W[0, sᵢ]: its second part depends on the context alone and is computed
    once, so that a solve does not evaluate the bottlenecks, nor read what they made.
    Source: Ahn et al. 2022 (Monotone Flows), variational dequantization, and released code.

    Args:
        channels: Of the context.
        growth: Channels that every dense layer adds.
        depth: Number of dense layers.
        map_size: `(height, width)` of the images.
        width: Channels between the bottlenecks, a multiple of 16.
        inner: Channels inside of them, a multiple of 16.

    Raises:
        ValueError: If a size is not positive, or does not fit the groups of 16 channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        growth: int,
        depth: int,
        map_size: tuple[int, int],
        width: int = 64,
        inner: int = 512,
    ) -> None:
        for name, size in (("width", width), ("inner", inner)):
            if size < 1 or size % _GROUP:
                raise ValueError(f"{name}: expected a multiple of {_GROUP}, got {size}")
        super().__init__("ResidualConditioner", (channels, *map_size))
        self.growth = growth
        self.depth = depth
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            *(Bottleneck(width, width, inner) for _ in range(3)),
        )
        self.shifts = nn.ModuleList(Bottleneck(width, growth, inner) for _ in range(depth))

    def require_fit(self, growth: int, depth: int, map_size: tuple[int, int] | None) -> None:
        """Refuse another net than the one that it is made for.

        Raises:
            ValueError: If the net is of other sizes.
        """
        made = self.growth, self.depth, self.context_shape[1:]
        if (growth, depth, map_size) != made:
            raise ValueError(
                f"expected a conditioner of growth {growth} and depth {depth} on maps of "
                f"{map_size}, got one of growth {made[0]} and depth {made[1]} on maps of {made[2]}"
            )

    def features(self, bound: BoundNet, context: Context) -> tuple[Tensor, ...]:
        """What the layers read of the shifts; the first layer reads none."""
        trunk = self.trunk(self.checked(context))
        written = [shift(trunk) for shift in self.shifts]
        own = bound.weights[0].shape[1]
        read = [
            affine(torch.cat(written[:i], 1), weight[:, own:])
            for i, weight in enumerate(bound.weights[1:], start=1)
        ]
        return (trunk.new_zeros(len(trunk), 1, 1, 1), *read)


@final
class Bottleneck(nn.Module):
    """Group norms, ReLUs and 3x3, 1x1 and 3x3 convolutions beside a skip connection.

    Source: He et al. 2016 (Identity mappings in deep residual networks), Fig. 4e.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out; the skip connection convolves where they differ.
        inner: Channels inside.
    """

    def __init__(self, inputs: int, outputs: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_activated(inputs, nn.Conv2d(inputs, inner, 3, padding=1)),
            *_activated(inner, nn.Conv2d(inner, inner, 1)),
            *_activated(inner, nn.Conv2d(inner, outputs, 3, padding=1)),
        )
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """The convolutions and the skip connection together."""
        deep: Tensor = self.layers(x)
        skipped: Tensor = self.skip(x)
        return skipped + deep


def _activated(channels: int, convolution: nn.Conv2d) -> Sequence[nn.Module]:
    return nn.GroupNorm(channels // _GROUP, channels), nn.ReLU(), convolution
