"""What a flow and its discriminator are trained on."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from flow_core.base import StandardNormal
from flow_core.dequantization import Dequantized
from flow_core.layers import DataDependent
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from flow_apps.errors import ConfigError
from flow_apps.experiments.flowgan.config import DISCRIMINATOR, FlowGanConfig
from flow_apps.experiments.flowgan.discriminators import Discriminator
from flow_apps.parts.likelihood import IntegerLoss
from flow_apps.parts.noise import within_bins
from flow_apps.parts.regularizers import Regularizers
from flow_apps.training import Batch, Scalars

Critic = Callable[[Tensor], Tensor]
Pictured = Float[Tensor, "batch channels height width"]

_GRID = 2.0**-24  # between uniform numbers of float32


class Drawn(NamedTuple):
    """What a step draws, all of it of its batch.

    Attributes:
        real: Images in [0, 1).
        z: Latents of samples.
        place: Of a point between an image and a sample.
    """

    real: Tensor
    z: Tensor
    place: Tensor


class FlowGanLoss(IntegerLoss):
    """The terms of the generator, and those of the discriminator, each in its own turn.

    A turn leaves the other network as it is: weights, spectral norms and statistics.

    Args:
        model: The generator, a distribution of images.
        discriminator: Tells its samples from images; None where nothing is adversarial.
        config: Of the experiment.
        using: What passes of the generator do their work with.

    Raises:
        ConfigError: If the base distribution of the generator is another one than N(0, I).
    """

    def __init__(
        self,
        model: Dequantized,
        discriminator: Discriminator | None,
        config: FlowGanConfig,
        using: Settings,
    ) -> None:
        super().__init__(model)
        if not isinstance(model.flow.base, StandardNormal):
            kind = type(model.flow.base).__name__
            raise ConfigError(f"flow: expected a standard normal base distribution, got {kind}")
        self.discriminator = discriminator
        self.config, self.using = config, using
        self.regularizers = Regularizers(config.regularizers, using)

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data, or let it be as it is."""
        drawn = self.drawn(batch)
        if self.config.data_dependent_init:
            self.model.flow.initialize(drawn.real)
        else:
            leave_identity(self.model)
        if self.discriminator is not None:
            self.discriminator.initialize(drawn.real)

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """The loss of a turn."""
        drawn = self.drawn(batch)
        if turn == DISCRIMINATOR:
            assert self.discriminator is not None
            return self._told_apart(drawn, self.discriminator)
        total, scalars = drawn.real.new_zeros(()), Scalars()
        for name, weight, value in self._terms(drawn, batch.step, scalars):
            total = total + weight * value
            scalars[name] = value.detach()
        return total, scalars

    def drawn(self, batch: Batch) -> Drawn:
        """Everything random of a batch follows from the noise of its samples."""
        assert batch.noise is not None
        base, channels = self.model.flow.base, batch.x.shape[1]
        noise, uniform, place = torch.split(batch.noise, [channels, channels, 1], 1)
        real = within_bins(batch.x, self.model.levels, noise).to(base.dtype)
        z = standard_normal(uniform).to(base.dtype).reshape(-1, *base.event_shape)
        return Drawn(real, z, place[:, :, :1, :1].to(base.dtype))

    def _terms(
        self, drawn: Drawn, step: int, scalars: Scalars
    ) -> Iterator[tuple[str, float, Tensor]]:
        """Names, weights and values of the terms of the generator."""
        weights = self.config.weights
        if weights.base_density or weights.log_det or self.regularizers.due(step):
            yield from self._of_images(drawn.real, step, scalars)
        if weights.adversarial or weights.entropy:
            yield from self._of_samples(drawn.z)

    def _of_images(
        self, real: Tensor, step: int, scalars: Scalars
    ) -> Iterator[tuple[str, float, Tensor]]:
        flow, weights = self.model.flow, self.config.weights
        z, log_det = flow.bijection.transform_and_log_det(real, using=self.using)
        base_density = -flow.base.log_prob(z).mean()
        # In the units of integers, so that both are together the nats of an image.
        units = real[0].numel() * math.log(self.model.levels)
        volume = units - log_det.mean()
        bits = (base_density + volume).detach() / (real[0].numel() * math.log(2))
        scalars["bits_per_dim"] = bits
        yield "base_density", weights.base_density, base_density
        yield "log_det", weights.log_det, volume
        if self.regularizers.due(step):
            penalty, penalties = self.regularizers(
                flow.bijection, flow.base, real, z, log_det, step=step
            )
            scalars.update(penalties)
            yield "penalty", 1.0, penalty

    def _of_samples(self, z: Tensor) -> Iterator[tuple[str, float, Tensor]]:
        flow, weights = self.model.flow, self.config.weights
        if weights.entropy:
            fake, log_det = flow.bijection.inverse_and_log_det(z, using=self.using)
            yield "entropy", weights.entropy, (flow.base.log_prob(z) - log_det).mean()
        else:
            fake = flow.bijection.inverse(z, using=self.using)
        if weights.adversarial:
            assert self.discriminator is not None
            logits = as_it_is(self.discriminator)(fake)
            yield "adversarial", weights.adversarial, softplus(-logits).mean()

    def _told_apart(
        self, drawn: Drawn, discriminator: Discriminator
    ) -> tuple[Float[Tensor, ""], Scalars]:
        """½·(−log σ(D(real)) − log σ(−D(fake))), and the penalty on the gradient in between."""
        real, z, place = drawn
        with torch.no_grad():
            fake = self.model.flow.bijection.inverse(z, using=self.using)
        of_real, of_fake = discriminator(real), discriminator(fake)
        loss = 0.5 * (softplus(-of_real).mean() + softplus(of_fake).mean())
        scalars = {
            "told_apart": loss.detach(),
            "real_accuracy": (of_real > 0).to(real.dtype).mean(),
            "fake_accuracy": (of_fake <= 0).to(real.dtype).mean(),
        }
        weight = self.config.discriminator.gradient_penalty
        if weight:
            penalty = gradient_penalty(discriminator, real, fake, place)
            loss = loss + weight * penalty
            scalars["gradient_penalty"] = penalty.detach()
        return loss, scalars


def gradient_penalty(
    critic: Critic, real: Pictured, fake: Pictured, place: Float[Tensor, "batch 1 1 1"]
) -> Float[Tensor, ""]:
    """Mean of (‖∇D(x)‖ − 1)² at x = t·real + (1 − t)·fake.

    Source: Gulrajani et al. 2017, eq. 3.

    Args:
        critic: D.
        real: Images.
        fake: Samples.
        place: t, in [0, 1).
    """
    with torch.enable_grad():
        between = torch.lerp(fake, real, place).detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        steepness: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
        return (steepness - 1).square().mean()


def standard_normal(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Normal numbers from uniform ones in [0, 1), of which 0 is one; in float64."""
    middle = uniform.double() + _GRID / 2
    normal: Tensor = torch.special.ndtri(middle.clamp(max=1 - _GRID / 2))
    return normal


def as_it_is(module: nn.Module) -> Critic:
    """A module as a function that has no gradients to it and leaves it unchanged."""
    tensors = {name: parameter.detach() for name, parameter in module.named_parameters()}
    tensors |= {name: buffer.clone() for name, buffer in module.named_buffers()}
    return lambda x: functional_call(module, tensors, (x,))


def leave_identity(model: nn.Module) -> None:
    """Let layers that would take statistics of data be as they were made."""
    for layer in model.modules():
        if isinstance(layer, DataDependent):
            layer.initialized.fill_(True)
            layer.refresh_initialized()
