"""How well an invertible network tells classes, and how well it inverts."""

from collections.abc import Mapping

from flow_core.diagnostics import Diagnostics
from flow_core.models import LatentClassifier
from flow_core.settings import Settings
from flow_data import ImageSplits
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.inn_classify.config import InnClassifyConfig
from flow_apps.experiments.inn_classify.model import padded
from flow_apps.parts.classification import ClassificationTests
from flow_apps.parts.image_sets import part_under_test
from flow_apps.parts.invertibility import Invertibility
from flow_apps.parts.noise import within_bins
from flow_apps.parts.stability import SPLIT, Stability
from flow_apps.training import Tested, Tests, Workers


class InnTests(Tests):
    """Tests of classes, and round trips and singular values where they are due.

    Args:
        model: Gives logits and latents of images in [0, 1).
        images: Their parts.
        config: Of the experiment.
        using: What passes do their work with.
    """

    selection = ("validation", "error_rate")

    def __init__(
        self,
        model: LatentClassifier,
        images: ImageSplits,
        config: InnClassifyConfig,
        using: Settings,
    ) -> None:
        self.model = model
        self.images = images
        self.config = config
        self.classes = ClassificationTests(model, images, config.images, self._points)
        self.splits = (*self.classes.splits, SPLIT)
        self.stability = Stability(model.bijection, self.points, config.stability, using)
        self.invertibility = Invertibility(model.bijection, self.points, using)
        self._of_last_weights: dict[str, float] = {}

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Of classes at every evaluation; of stability where it is due, and in the end."""
        if split != SPLIT:
            return self.classes.evaluate(split, step, workers)
        iterations = self.config.training.iterations
        if not self.config.stability.due(step, iterations):
            return {}
        measured = self.stability.measure(workers)
        if step == iterations:
            self._of_last_weights = measured
        return measured

    def test(self, workers: Workers) -> Tested:
        """Every test image; the figure of merit is the error rate."""
        return self.classes.test(workers)

    def audit(self) -> Mapping[str, object]:
        """What images it was trained on, the stability of the last weights, what is proven."""
        bounds = self.model.bijection.bounds()
        proven = bounds.transform * bounds.inverse
        return {**self.classes.audit(), **self._of_last_weights, "condition_bound": proven}

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few images."""
        return self.invertibility.diagnose()

    def points(self, count: int) -> Float[Tensor, " count *event"]:
        """Validation images as the bijection takes them, at most that many."""
        part = part_under_test(self.images, self.config.images, "validation")
        device = next(self.model.parameters()).device
        return self._points(part.take(slice(count)).to(device))

    def _points(self, images: Tensor) -> Tensor:
        return padded(within_bins(images, self.config.images.levels), self.config.inj_pad)
