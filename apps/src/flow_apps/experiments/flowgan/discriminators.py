"""Networks that tell samples of a generator from real images.

Source: Behrmann et al. 2021, released code of the flows (`disc_arch`), after Radford et al. 2016
(DCGAN), Miyato et al. 2018 (spectral normalisation) and Brock et al. 2019 (BigGAN).
"""

from collections.abc import Callable, Sequence

from flow_core.distributions import Flow
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu
from torch.nn.utils.parametrizations import spectral_norm

from flow_apps.config.checks import require
from flow_apps.experiments.flowgan.config import DiscriminatorName

_HALVINGS_OF_DCGAN = 3
_CONVOLUTIONS = ((1, 3), (1, 4), (2, 3), (2, 4), (4, 3), (4, 4), (8, 3))
"""Of `mine`: channels as multiples of the width, and sides of kernels; those of 4 halve."""
_DOWN = (True, True, False, False)


class Discriminator(nn.Module):
    """Tells how real images look, as a logit.

    Args:
        layers: Make `(batch, 1)` of images around 0.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
        """Logits of images in [0, 1]."""
        logits: Tensor = self.layers(x - 0.5)
        return logits.reshape(len(x))

    def initialize(self, x: Float[Tensor, "batch channels height width"]) -> None:
        """Set what depends on data: nothing."""


class FlowDiscriminator(Discriminator):
    """The mean of z, of a flow.

    Args:
        flow: Of the images.
    """

    layers: Flow

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
        """Logits of images in [0, 1]."""
        return self.layers.bijection.transform(x).flatten(1).mean(1)

    def initialize(self, x: Float[Tensor, "batch channels height width"]) -> None:
        """Set what depends on data."""
        self.layers.initialize(x)


def dcgan(shape: Sequence[int], width: int) -> Discriminator:
    """4x4 convolutions that halve the image, then one over what is left of it.

    Raises:
        ConfigError: If the image is too small.
    """
    channels, *sides = shape
    height, breadth = (side // 2**_HALVINGS_OF_DCGAN for side in sides)
    require(
        min(height, breadth) > 0, f"discriminator.kind: expected 8x8 images or larger, got {sides}"
    )
    layers = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for k in range(1, _HALVINGS_OF_DCGAN):
        before, after = width * 2 ** (k - 1), width * 2**k
        layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.LeakyReLU(0.2)]
    widest = width * 2 ** (_HALVINGS_OF_DCGAN - 1)
    return Discriminator(
        nn.Sequential(*layers, nn.Conv2d(widest, 1, (height, breadth), bias=False))
    )


def mine(shape: Sequence[int], width: int) -> Discriminator:
    """3x3 and 4x4 convolutions with spectral norms, then a linear layer without.

    Raises:
        ConfigError: If the image is too small.
    """
    channels, *sides = shape
    left = [side // 2 // 2 // 2 for side in sides]
    require(min(left) > 0, f"discriminator.kind: expected 8x8 images or larger, got {sides}")
    layers = list[nn.Module]()
    for times, side in _CONVOLUTIONS:
        made = nn.Conv2d(channels, times * width, side, stride=side - 2, padding=1)
        layers += [spectral_norm(made), nn.LeakyReLU(0.1)]
        channels = times * width
    linear = nn.Linear(channels * left[0] * left[1], 1)
    return Discriminator(nn.Sequential(*layers, nn.Flatten(), linear))


def biggan(shape: Sequence[int], width: int) -> Discriminator:
    """Four residual blocks, the sum over the image, a linear layer; all with spectral norms.

    Raises:
        ConfigError: If the image is too small.
    """
    channels, *sides = shape
    require(min(sides) >= 4, f"discriminator.kind: expected 4x4 images or larger, got {sides}")
    ins = (channels, *[width] * (len(_DOWN) - 1))
    blocks = [
        _ResidualBlock(before, width, down=down, first=k == 0)
        for k, (before, down) in enumerate(zip(ins, _DOWN, strict=True))
    ]
    linear = spectral_norm(nn.Linear(width, 1))
    return Discriminator(nn.Sequential(*blocks, nn.ReLU(), _Sum(), linear))


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 convolution where channels or size change."""

    def __init__(self, before: int, after: int, *, down: bool, first: bool) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = spectral_norm(nn.Conv2d(before, after, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(after, after, 3, padding=1))
        changes = down or before != after
        self.beside = spectral_norm(nn.Conv2d(before, after, 1)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Nothing is rectified in front of the first block."""
        inner = self._halved(self.conv2(relu(self.conv1(x if self.first else relu(x)))))
        first = self.first
        beside: Tensor = self.beside(self._halved(x)) if first else self._halved(self.beside(x))
        return inner + beside

    def _halved(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, 2) if self.down else x


class _Sum(nn.Module):
    """Over the image."""

    def forward(self, x: Tensor) -> Tensor:
        """Of every channel."""
        return x.sum((2, 3))


CONVOLUTIONAL: dict[
    DiscriminatorName, tuple[Callable[[Sequence[int], int], Discriminator], int]
] = {"dcgan": (dcgan, 128), "mine": (mine, 64), "biggan": (biggan, 256)}
"""What makes those that are no flows, and the published widths."""
