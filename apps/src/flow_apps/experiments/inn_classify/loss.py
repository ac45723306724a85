"""What an invertible network is trained on."""

from flow_core.base import BaseDistribution
from flow_core.models import LatentClassifier
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from flow_apps.experiments.inn_classify.config import InnClassifyConfig
from flow_apps.experiments.inn_classify.model import base_of, padded
from flow_apps.parts.classification import class_scalars
from flow_apps.parts.noise import within_bins
from flow_apps.parts.regularizers import Regularizers
from flow_apps.training import Batch, Loss, Scalars


class InnLoss(Loss):
    """Mean cross-entropy in nats, and penalties on the conditioning.

    Args:
        model: Gives logits and latents of images in [0, 1).
        config: Of the experiment.
        using: What passes do their work with.
    """

    model: LatentClassifier

    def __init__(self, model: LatentClassifier, config: InnClassifyConfig, using: Settings) -> None:
        super().__init__(model)
        self.config = config
        self.using = using
        self.regularizers = Regularizers(config.regularizers, using)

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data."""
        self.model.initialize(self._points(batch))

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Nats a sample, with what penalties add."""
        assert batch.y is not None
        x = self._points(batch)
        wanted = self.regularizers.wants_log_det(batch.step)
        z, log_det, logits = self.model.latents(x, log_det=wanted, using=self.using)
        penalty, penalties = self.regularizers(
            self.model.bijection, self._base, x, z, log_det, step=batch.step
        )
        nats = cross_entropy(logits, batch.y)
        return nats + penalty, {**class_scalars(logits, batch.y), **penalties}

    @property
    def _base(self) -> BaseDistribution | None:
        return base_of(self.config, self.model)

    def _points(self, batch: Batch) -> Tensor:
        """Images in the middle of their bins: classifiers need no noise."""
        images = within_bins(batch.x, self.config.images.levels)
        return padded(images, self.config.inj_pad)
