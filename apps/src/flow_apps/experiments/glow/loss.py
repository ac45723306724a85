"""What flows of invertible convolutions are trained on."""

import math

import torch
from flow_core.dequantization import Dequantized, bits_per_dim
from flow_core.layers import Geco, SelfNormConv2d, TrainingSurrogate
from flow_core.models import LabelledFlow
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.experiments.glow.config import SelfNormConfig
from flow_apps.parts.classification import class_scalars
from flow_apps.parts.likelihood import IntegerLoss
from flow_apps.parts.noise import within_bins
from flow_apps.parts.regularizers import Regularizers
from flow_apps.training import Batch, Loss, Scalars


class GlowLoss(IntegerLoss):
    """Mean negative log-likelihood in nats of integer images.

    In nats a sample, as in the papers, whose norms of clipped gradients mean that.

    Args:
        model: Their distribution.
        using: What training does its work with.
        regularizers: Penalties.
    """

    def __init__(
        self, model: Dequantized, using: Settings, regularizers: RegularizersConfig
    ) -> None:
        super().__init__(model)
        self.using = using
        self.penalties = PixelPenalties(model, regularizers, using)

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Nats a sample, of the noise of the batch, and penalties."""
        log_prob = self.model(batch.x, noise=batch.noise, using=self.using)
        bits = bits_per_dim(log_prob, self.model.event_shape).mean()
        penalty, penalties = self.penalties(batch)
        return -log_prob.mean() + penalty, {"bits_per_dim": bits.detach(), **penalties}


class LabelledLoss(Loss):
    """Mean negative log-likelihood in nats of images given their classes, and of the classes.

    −log p(x | y) + w·D·log 2·(cross-entropy in nats): the weight w counts beside bits per
    dimension. Source: y0ast/Glow-PyTorch, `y_weight`.

    Args:
        model: Their distribution.
        weight: w.
        using: What training does its work with.
        regularizers: Penalties.
    """

    model: LabelledFlow

    def __init__(
        self, model: LabelledFlow, weight: float, using: Settings, regularizers: RegularizersConfig
    ) -> None:
        super().__init__(model)
        self.using, self.weight = using, weight
        self.penalties = PixelPenalties(model.density, regularizers, using)

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data: the noise model first, then the flow."""
        self.model.initialize(batch.x, noise=batch.noise)

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Nats a sample, of the noise of the batch."""
        assert batch.y is not None
        told = self.model(batch.x, noise=batch.noise, using=self.using)
        shape = self.model.density.event_shape
        nats = -told.log_prob_of_classes.gather(1, batch.y.long().unsqueeze(1)).mean()
        classes = cross_entropy(told.logits, batch.y.long())
        penalty, penalties = self.penalties(batch)
        loss = nats + self.weight * shape.numel() * math.log(2) * classes + penalty
        bits = {"bits_per_dim_of_class": bits_per_dim(-nats.detach(), shape)}
        return loss, {**bits, **class_scalars(told.logits, batch.y), **penalties}


class PixelPenalties:
    """Penalties on the conditioning of the flow of images, from passes of their own.

    Args:
        model: The distribution of the images.
        config: Which penalties.
        using: What passes do their work with.
    """

    def __init__(self, model: Dequantized, config: RegularizersConfig, using: Settings) -> None:
        self.model, self.using = model, using
        self.regularizers = Regularizers(config, using)

    def __call__(self, batch: Batch) -> tuple[Float[Tensor, ""], Scalars]:
        """Their weighted sum where the step of a batch is regularized, and each of them."""
        if batch.step == 0 or not self.regularizers.due(batch.step):
            return torch.zeros((), device=batch.x.device), {}
        flow, x = self.model.flow, within_bins(batch.x, self.model.levels, batch.noise)
        z = flow.bijection.transform(x, using=self.using)
        return self.regularizers(flow.bijection, flow.base, x, z, None, step=batch.step)


class SurrogateLoss(IntegerLoss):
    """The surrogate of a self-normalizing flow in nats, with weighted reconstruction errors.

    Source: Keller et al. 2021, §4.

    Args:
        model: The distribution of the images.
        config: What is weighted, and how.
        using: What training does its work with.
    """

    def __init__(self, model: Dequantized, config: SelfNormConfig, using: Settings) -> None:
        super().__init__(model)
        self.config, self.using = config, using
        layers = sum(isinstance(m, SelfNormConv2d) for m in model.modules())
        self.geco = _geco(config, layers)
        self._errors: Tensor | None = None

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Nats a sample, which are no likelihood; `surrogate_bits_per_dim` tells them."""
        surrogate = TrainingSurrogate(self.model, self.config.reconstruction)
        terms = surrogate(batch.x, noise=batch.noise, using=self.using)
        errors = terms.reconstruction.detach()
        if torch.is_grad_enabled():
            self._errors = errors
        weights = self.config.reconstruction_weight if self.geco is None else self.geco.weights
        loss = -terms.surrogate.mean() + (weights * terms.reconstruction).sum()
        bits = bits_per_dim(terms.surrogate, self.model.event_shape).mean()
        return loss, {"surrogate_bits_per_dim": bits.detach(), "reconstruction": errors.mean()}

    def after_optimizer_step(self) -> None:
        """Let the weights of reconstruction errors follow these."""
        if self.geco is not None and self._errors is not None:
            self.geco.update(self._errors)


def leave_approximate_inverses(model: Dequantized) -> None:
    """Exact gradients do not reach them, which processes that share gradients must know."""
    for layer in model.modules():
        if isinstance(layer, SelfNormConv2d):
            layer.inverse_weight.requires_grad_(False)


def _geco(config: SelfNormConfig, layers: int) -> Geco | None:
    if config.geco_rate is None:
        return None
    return Geco(
        layers,
        tolerance=config.geco_tolerance,
        rate=config.geco_rate,
        memory=config.geco_memory,
        initial=config.reconstruction_weight,
    )
