"""Networks that begin as zero, so that the layers that they condition begin as the identity."""

from typing import final

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.convolution import same_conv2d
from flow_core.domain import Domain
from flow_core.layers.couplings.norms import ConditionerNorm
from flow_core.lipschitz import LipschitzConv2d, UncertifiedNet
from flow_core.lipschitz.plain import NetBounds, affine_bounds, conv_norm, half, net_bounds, sliced


@final
class ZeroConv2d(nn.Module):
    """A convolution of the same size with zero weights and per-channel scales e^(3·l) at first.

    Source: Kingma & Dhariwal 2018, §3.3 and released code.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel_size: Side of the kernel, odd.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.log_scale = nn.Parameter(torch.zeros(outputs))

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """The scaled convolution."""
        y = same_conv2d(x, self.weight, self.bias)
        return y * (3 * self.log_scale).exp().view(-1, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Typed `forward`."""
        output: Tensor = super().__call__(x)
        return output


@net_bounds.register
def _(module: ZeroConv2d, domain: Domain) -> NetBounds:
    scale = (3 * in_float64(module.log_scale.detach())).exp()
    weight = in_float64(module.weight.detach()) * scale.view(-1, 1, 1, 1)
    bias = in_float64(module.bias.detach()) * scale
    norm = conv_norm(weight, domain.shape)
    shape = (len(weight), *domain.shape[1:])
    return affine_bounds(norm, weight, bias, domain.with_zero(), shape)


@half.register
def _(module: ZeroConv2d, index: int) -> nn.Module:
    return sliced(module, index)


def convolutional_conditioner(
    inputs: int, outputs: int, width: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """3x3, 1x1 and 3x3 convolutions with ReLU, or another, between them, zero at first (Glow)."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1),
        activation(),
        nn.Conv2d(width, width, 1),
        activation(),
        ZeroConv2d(width, outputs),
    )


def normed_conditioner(
    inputs: int, outputs: int, width: int, *, variance_floor: float = 0.2
) -> nn.Sequential:
    """The same with ActNorms in place of the biases of the first two (Glow, released code)."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False),
        ConditionerNorm(width, variance_floor=variance_floor),
        nn.ReLU(),
        nn.Conv2d(width, width, 1, bias=False),
        ConditionerNorm(width, variance_floor=variance_floor),
        nn.ReLU(),
        ZeroConv2d(width, outputs),
    )


def spectral_conditioner(
    inputs: int, outputs: int, width: int, map_size: tuple[int, int], *, coeff: float = 0.98
) -> nn.Sequential:
    """Three 3x3 convolutions of spectral norm at most `coeff`, with ReLU between; small at first.

    `update_lipschitz` follows the norms. Source: Behrmann et al. 2021, released code (`sn`).
    """

    def convolution(before: int, after: int, *, last: bool = False) -> nn.Module:
        return LipschitzConv2d(before, after, 3, map_size, coeff=coeff, zero_init=last)

    return UncertifiedNet(
        convolution(inputs, width),
        nn.ReLU(),
        convolution(width, width),
        nn.ReLU(),
        convolution(width, outputs, last=True),
    )


def dense_conditioner(
    inputs: int, outputs: int, width: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Three linear layers with ReLU, or another, between them, zero at first."""
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(inputs, width), activation(), nn.Linear(width, width), activation(), last
    )
