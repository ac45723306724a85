"""What flows of invertible convolutions are trained on."""

import torch
from flow_core.dequantization import Dequantized, bits_per_dim
from flow_core.layers import Geco, SelfNormConv2d, TrainingSurrogate
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.glow.config import SelfNormConfig
from flow_apps.parts.likelihood import IntegerLoss
from flow_apps.training import Batch, Scalars


class GlowLoss(IntegerLoss):
    """Mean negative log-likelihood in nats of integer images.

    In nats a sample, as in the papers, whose norms of clipped gradients mean that.

    Args:
        model: Their distribution.
        using: What training does its work with.
    """

    def __init__(self, model: Dequantized, using: Settings) -> None:
        super().__init__(model)
        self.using = using

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Nats a sample, of the noise of the batch."""
        log_prob = self.model(batch.x, noise=batch.noise, using=self.using)
        bits = bits_per_dim(log_prob, self.model.event_shape).mean()
        return -log_prob.mean(), {"bits_per_dim": bits.detach()}


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
