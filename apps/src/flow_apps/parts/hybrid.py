"""Loss, tests and pictures of a likelihood and a classifier that are trained together."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from flow_core.dequantization import bits_per_dim, importance_weighted
from flow_core.diagnostics import Diagnostics
from flow_core.models import FlowClassifier, HybridModel
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from flow_apps.parts.classification import (
    ClassificationTests,
    ConfusionFigure,
    class_figures,
    class_scalars,
)
from flow_apps.parts.images import ImageFigures, ImageTests
from flow_apps.parts.merit import mean_of
from flow_apps.training import Batch, Loss, Scalars, Tested, Tests, Workers

_NAMES = ("bits_per_dim", "cross_entropy", "accuracy")


class HybridLoss(Loss):
    """w·(bits per dimension) + (cross-entropy in bits), both means over the batch.

    Source: Chen et al. 2019 (Residual Flows), §5.3.

    Args:
        model: The distribution of the images, and logits.
        weight: w.
        using: What training does its work with.
    """

    model: HybridModel

    def __init__(self, model: HybridModel, weight: float, using: Settings) -> None:
        super().__init__(model)
        self.weight = weight
        self.using = using

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data: the density, then the heads."""
        self.model.initialize(batch.x, noise=batch.noise)

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Bits, of the noise of the batch."""
        assert batch.y is not None
        log_prob, logits = self.model(batch.x, noise=batch.noise, using=self.using)
        bits = bits_per_dim(log_prob, self.model.density.event_shape).mean()
        loss = joined(self.weight, bits, cross_entropy(logits, batch.y))
        return loss, {"bits_per_dim": bits.detach(), **class_scalars(logits, batch.y)}


def joined(
    weight: float, bits: Float[Tensor, "*batch"], nats: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The loss in bits, from bits per dimension and a cross-entropy in nats."""
    return weight * bits + nats / math.log(2)


class HybridTests(Tests):
    """Bits per dimension and accuracy from one pass; the loss of both chooses the best weights.

    Args:
        model: The distribution of the images, and logits.
        images: Tests of the likelihood alone.
        weight: Of the likelihood in the loss.
    """

    selection = ("validation", "loss")

    def __init__(self, model: HybridModel, images: ImageTests, weight: float) -> None:
        self.model = model
        self.images, self.invertibility = images, images.invertibility
        self.weight = weight
        self.splits = images.splits

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Means over images from one draw of the noise.

        The standard error is that of the bits per dimension; that of the loss has its name.
        """
        figures = self._figures(split, 1, 1, workers)
        means = {name: float(values.mean()) for name, values in figures.items()}
        bits = mean_of("bits_per_dim", figures["bits_per_dim"])
        return means | bits | mean_of("loss", figures["loss"], of="loss_")

    def test(self, workers: Workers) -> Tested:
        """Every test image, the means over draws of the noise; merit is the likelihood."""
        config = self.images.config
        figures = self._figures("test", config.test_draws, config.importance_samples, workers)
        bits = figures.pop("bits_per_dim")
        nats = -bits * self.model.density.event_shape.numel() * math.log(2)
        return Tested("log_likelihoods", nats, "bits_per_dim", bits, figures)

    def audit(self) -> Mapping[str, object]:
        """What images it was trained on, and round trip."""
        return self.images.audit()

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few images."""
        return self.images.diagnose()

    def _figures(self, split: str, draws: int, samples: int, workers: Workers) -> dict[str, Tensor]:
        """Of every image, by name: the means over draws of so many samples of the noise."""
        part, size = self.images.part(split), self.images.config.test_batch_size
        using = self.images.using.of(split)

        def told(start: int) -> Tensor:
            """A batch of images, a figure in each column."""
            x = self.images.on_device(part.take(slice(start, start + size)))
            y = part.labels[start : start + size].to(x.device)
            return torch.stack([self._drawn(x, y, samples, using) for _ in range(draws)]).mean(0)

        columns = workers.each(split, range(0, len(part), size), told).unbind(1)
        figures = dict(zip(_NAMES, columns, strict=True))
        loss = joined(self.weight, figures["bits_per_dim"], figures["cross_entropy"])
        return {"loss": loss, **figures}

    def _drawn(self, x: Tensor, y: Tensor, samples: int, using: Settings) -> Tensor:
        """Figures of a batch in columns, for one draw: the importance-weighted bound, and means."""
        told = [self.model(x, using=using) for _ in range(samples)]
        bits = self.images.bits(importance_weighted(torch.stack([one.log_prob for one in told])))
        classes = [class_figures(one.logits, y) for one in told]
        means = {k: torch.stack([one[k] for one in classes]).mean(0) for k in classes[0]}
        figures = {"bits_per_dim": bits, **means}
        return torch.stack([figures[name] for name in _NAMES], 1)


class HybridFigures:
    """Samples, reconstructions, and which classes are taken for which.

    Args:
        tests: Gives images, and the model.
    """

    def __init__(self, tests: HybridTests) -> None:
        model, images = tests.model, tests.images
        alone = FlowClassifier(model.density.flow.bijection, model.heads)
        classes = ClassificationTests(alone, images.images, images.config, model.density.centres)
        self.parts = (ImageFigures(model.density, images), ConfusionFigure(classes))

    def draw(self, folder: Path, step: int) -> None:
        """Three sheets."""
        for part in self.parts:
            part.draw(folder, step)
