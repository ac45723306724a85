"""What the flow of a projection is trained on."""

from flow_core.distributions import Flow
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.parts.regularizers import Regularizers
from flow_apps.training import Batch, Loss, Scalars


class Regression2dLoss(Loss):
    """Mean squared error of z and the target, and penalties on the conditioning.

    Args:
        model: A flow whose latents are fitted.
        config: Of the penalties.
        using: What passes do their work with.
    """

    model: Flow

    def __init__(self, model: Flow, config: RegularizersConfig, using: Settings) -> None:
        super().__init__(model)
        self.using = using
        self.regularizers = Regularizers(config, using)

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """The squared error of a value, with what penalties add."""
        assert batch.y is not None
        bijection = self.model.bijection
        if self.regularizers.wants_log_det(batch.step):
            z, log_det = bijection.transform_and_log_det(batch.x, using=self.using)
        else:
            z, log_det = bijection.transform(batch.x, using=self.using), None
        error = (z - batch.y).square().mean()
        penalty, penalties = self.regularizers(
            bijection, self.model.base, batch.x, z, log_det, step=batch.step
        )
        return error + penalty, {"mse": error.detach(), **penalties}
