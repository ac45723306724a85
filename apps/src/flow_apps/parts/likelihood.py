"""Losses of distributions: mean negative log-likelihoods."""

from flow_core.dequantization import Dequantized, bits_per_dim
from flow_core.distributions import Flow
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.training import Batch, Loss, Scalars


class NatsLoss(Loss):
    """Mean negative log-likelihood in nats of real vectors.

    Args:
        model: Their distribution.
        using: What training does its work with.
    """

    model: Flow

    def __init__(self, model: Flow, using: Settings) -> None:
        super().__init__(model)
        self.using = using

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data, where a layer does."""
        self.model.initialize(batch.x)

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Nats a sample."""
        nats = -self.model(batch.x, using=self.using).mean()
        return nats, {"nats": nats.detach()}


class IntegerLoss(Loss):
    """What a distribution of integers is trained on."""

    model: Dequantized

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data: the noise model first, then the flow."""
        self.model.initialize(batch.x, noise=batch.noise)


class BitsLoss(IntegerLoss):
    """Mean bits per dimension of integers.

    Args:
        model: Their distribution.
        using: What training does its work with.
    """

    def __init__(self, model: Dequantized, using: Settings) -> None:
        super().__init__(model)
        self.using = using

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Bits per dimension, of the noise of the batch."""
        log_prob = self.model(batch.x, noise=batch.noise, using=self.using)
        bits = bits_per_dim(log_prob, self.model.event_shape).mean()
        return bits, {"bits_per_dim": bits.detach()}
