"""The error of a fit."""

from flow_core.distributions import Flow
from flow_core.layers import ActNorm
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.training import Batch, Loss, Scalars


class FitLoss(Loss):
    """Mean squared error of the bijection of a flow against a function.

    Args:
        model: Its bijection is the fit.
        using: What training does its work with.
    """

    model: Flow

    def __init__(self, model: Flow, using: Settings) -> None:
        super().__init__(model)
        self.using = using

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Mean squared error."""
        assert batch.y is not None
        mse = (self.model.bijection.transform(batch.x, using=self.using) - batch.y).square().mean()
        return mse, {"mse": mse.detach()}

    def initialize(self, batch: Batch) -> None:
        """Standardise the input of every block."""
        if any(isinstance(layer, ActNorm) for layer in self.model.modules()):
            self.model.bijection.initialize(batch.x)
