"""The invertible network that tells classes."""

from collections.abc import Iterator
from math import prod

import torch
from flow_core.base import BaseDistribution
from flow_core.bijection import Bijection
from flow_core.blocks import Monotone, Residual
from flow_core.bounds import contraction_for_condition
from flow_core.combinators import Chain
from flow_core.layers import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    BoundedExpScale,
    ConditionerNorm,
    Conv1x1,
    ExpScale,
    HalfRangeSigmoidScale,
    Normalize,
    Permutation,
    ScaleFunction,
    SigmoidScale,
    Squeeze,
    ZeroConv2d,
)
from flow_core.maps import FeedForwardNet
from flow_core.models import LatentClassifier
from flow_core.torch_base import TorchBase
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from flow_apps.config.images import ImageShape
from flow_apps.errors import ConfigError
from flow_apps.experiments.inn_classify.config import InnClassifyConfig
from flow_apps.parts.settings import follow_spectra, solve
from flow_apps.training.randomness import derive_seed

# That of Glow, which standardises every channel that varies at all.
_FLOOR = 1e-8
_KERNELS = (3, 1, 3)


def build_model(config: InnClassifyConfig) -> LatentClassifier:
    """The network of a config, initialised from its seed alone."""
    shape = latent_shape(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        model = LatentClassifier(
            Chain(list(_layers(config))),
            shape,
            config.heads.classes_of(config.images),
            base=TorchBase(_LearnedTop(shape)) if config.learn_top else None,
            values=_values(config, prod(shape)),
        )
    follow_spectra(model, config.contraction)
    return model


def base_of(config: InnClassifyConfig, model: LatentClassifier) -> BaseDistribution | None:
    """p(z) of the density that is asked for, or None for log-determinants alone."""
    return model.base if config.use_prior else None


def latent_shape(config: InnClassifyConfig) -> ImageShape:
    """Of one latent.

    Raises:
        ConfigError: If the images cannot be halved that often.
    """
    channels, height, width = _padded(config)
    factor = 2**config.levels
    if height % factor or width % factor:
        raise ConfigError(
            f"levels: images of {height}x{width} cannot be halved {config.levels} times"
        )
    return channels * factor**2, height // factor, width // factor


def padded(images: Tensor, channels: int) -> Tensor:
    """Images with that many channels of zeros behind theirs."""
    return nn.functional.pad(images, (0, 0, 0, 0, 0, channels)) if channels else images


def _values(config: InnClassifyConfig, size: int) -> int | None:
    if config.zs_dim is not None and config.zs_dim > size:
        raise ConfigError(f"zs_dim: expected at most {size} values, got {config.zs_dim}")
    return config.zs_dim


def _padded(config: InnClassifyConfig) -> ImageShape:
    channels, height, width = config.images.image_shape
    return channels + config.inj_pad, height, width


def _layers(config: InnClassifyConfig) -> Iterator[Bijection]:
    shape = _padded(config)
    yield _standardised(config)
    for _ in range(config.levels):
        yield Squeeze()
        shape = 4 * shape[0], shape[1] // 2, shape[2] // 2
        for _ in range(config.depth):
            if config.block in ("additive", "affine"):
                yield from _coupling_step(config, shape[0])
            else:
                yield _contractive(config, shape)


def _standardised(config: InnClassifyConfig) -> Bijection:
    """Padded channels stay zero."""
    channels = config.images.image_shape[0]
    if len(config.mean) not in (1, channels):
        raise ConfigError(
            f"mean: expected one number or one for each of {channels} channels, got {config.mean}"
        )
    times, more = channels // len(config.mean), config.inj_pad
    return Normalize((*config.mean * times, *[0.0] * more), (*config.std * times, *[1.0] * more))


def _coupling_step(config: InnClassifyConfig, channels: int) -> Iterator[Bijection]:
    if config.use_actnorm:
        yield ActNorm(channels, variance_floor=_FLOOR)
    yield _permutation(config, channels)
    half, moved = channels // 2, channels - channels // 2
    if config.block == "additive":
        yield AdditiveCoupling(_conditioner(config, half, moved), (channels, None, None))
    else:
        conditioner = _conditioner(config, half, 2 * moved)
        yield AffineCoupling(conditioner, _scale(config), event_shape=(channels, None, None))


def _permutation(config: InnClassifyConfig, channels: int) -> Bijection:
    if config.permutation == "conv":
        return Conv1x1(channels)
    if config.permutation == "shuffle":
        return Permutation.random(channels)
    return Permutation.reversal(channels)


def _conditioner(config: InnClassifyConfig, inputs: int, outputs: int) -> nn.Module:
    """3x3, 1x1 and 3x3 convolutions with rectifiers between them."""
    width, bias = config.width, not config.use_actnorm_in_blocks
    last = ZeroConv2d(width, outputs) if config.zero_init else _convolution(width, outputs, 3)
    layers: list[nn.Module] = []
    for before, size in ((inputs, 3), (width, 1)):
        layers.append(_convolution(before, width, size, bias=bias))
        if config.use_actnorm_in_blocks:
            layers.append(ConditionerNorm(width, variance_floor=_FLOOR))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, last)


def _convolution(inputs: int, outputs: int, size: int, *, bias: bool = True) -> nn.Module:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)


def _scale(config: InnClassifyConfig) -> ScaleFunction:
    eps = config.affine_eps
    if config.affine_scale == "sigmoid":
        return SigmoidScale(epsilon=eps)
    if config.affine_scale == "exp":
        return ExpScale(epsilon=eps)
    return HalfRangeSigmoidScale() if config.affine_scale == "half-range" else BoundedExpScale()


def _contractive(config: InnClassifyConfig, shape: ImageShape) -> Bijection:
    """All blocks together have the condition number of the config, as far as it is left to them."""
    residual = config.block == "residual"
    left = config.condition / (max(config.std) / min(config.std))
    count = config.levels * config.depth
    gamma = contraction_for_condition(left, "residual" if residual else "monotone", count)
    net = FeedForwardNet(
        shape[0],
        [config.width] * (len(_KERNELS) - 1),
        activation=config.activation,
        coeff=gamma ** (1 / len(_KERNELS)),
        kernels=_KERNELS,
        map_size=shape[1:],
    )
    return (Residual if residual else Monotone)(net, solve(config.contraction))


class _LearnedTop(nn.Module):
    """A normal distribution with a mean and a scale for every channel."""

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.shape = shape
        self.mean = nn.Parameter(torch.zeros(shape[0], 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(shape[0], 1, 1))

    def forward(self) -> Distribution:
        """The distribution of z."""
        mean, scale = self.mean.expand(self.shape), self.log_scale.exp().expand(self.shape)
        # Without memory torch cannot check arguments.
        normal = Normal(mean, scale, validate_args=False)
        return Independent(normal, len(self.shape), validate_args=False)
