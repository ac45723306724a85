"""Losses, tests and pictures of classifiers of images."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from flow_core.models import ContractiveResNet, FlowClassifier, LatentClassifier
from flow_core.settings import Settings
from flow_data import ImageSet, ImageSplits
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from flow_apps.config.classification import HeadsConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.errors import ConfigError
from flow_apps.figures.confusion import draw_confusion
from flow_apps.parts.digit_classifier import DigitClassifier
from flow_apps.parts.image_sets import load_images, part_under_test
from flow_apps.parts.merit import mean_of
from flow_apps.parts.noise import within_bins
from flow_apps.training import Batch, Loss, Scalars, Tested, Tests, Workers

Logits = Float[Tensor, "batch classes"]
Labels = Int[Tensor, " batch"]
Classifier: TypeAlias = FlowClassifier | ContractiveResNet | LatentClassifier | DigitClassifier


def with_classes(heads: HeadsConfig, images: ImagesConfig) -> HeadsConfig:
    """The config with the number of classes, from the labels where only they tell it.

    Raises:
        DataError: If the files are not there or not what they should be.
    """
    if heads.known_classes(images) is not None:
        return heads
    return replace(heads, classes=int(load_images(images).train.labels.max()) + 1)


def require_labels(images: ImageSplits, classes: int) -> None:
    """Refuse images without labels, or of more classes than the model has.

    Raises:
        ConfigError: With the smallest and the largest label.
    """
    labels = torch.cat([images.train.labels, images.validation.labels, images.test.labels])
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        unknown = "use a set with labels, of a folder with the classes of train/ in test/"
        remedy = unknown if least < 0 else f"give --set classes={most + 1}"
        raise ConfigError(
            f"classes: expected labels from 0 to {classes - 1} in {images.train.name}, got "
            f"{least} to {most}; {remedy}"
        )


def class_scalars(logits: Logits, labels: Labels) -> Scalars:
    """Mean cross-entropy in nats and accuracy of a batch, for the log."""
    right = (logits.argmax(1) == labels).to(logits.dtype)
    return {"cross_entropy": cross_entropy(logits, labels).detach(), "accuracy": right.mean()}


def class_figures(logits: Logits, labels: Labels) -> dict[str, Float[Tensor, " batch"]]:
    """Of every sample: cross-entropy in nats, whether the class was told right, and whether not."""
    right = (logits.argmax(1) == labels).to(logits.dtype)
    nats = cross_entropy(logits, labels, reduction="none")
    return {"cross_entropy": nats, "accuracy": right, "error_rate": 1 - right}


def confusion(logits: Logits, labels: Labels) -> Int[Tensor, "classes classes"]:
    """How many samples of the class of a row the class of a column was said of."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


class ClassificationLoss(Loss):
    """Mean cross-entropy in nats.

    Args:
        model: Gives logits of images in [0, 1).
        levels: Values that a pixel can take.
        noise: Whether images are dequantised with uniform noise, or stay in the middle of bins.
        using: What training does its work with.
    """

    model: Classifier

    def __init__(self, model: Classifier, levels: int, *, noise: bool, using: Settings) -> None:
        super().__init__(model)
        self.levels = levels
        self.noise = noise
        self.using = using

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data."""
        self.model.initialize(self._reals(batch))

    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """Nats a sample."""
        assert batch.y is not None
        logits = self.model(self._reals(batch), using=self.using)
        return cross_entropy(logits, batch.y), class_scalars(logits, batch.y)

    def _reals(self, batch: Batch) -> Tensor:
        return within_bins(batch.x, self.levels, batch.noise if self.noise else None)


class ClassificationTests(Tests):
    """Accuracy and cross-entropy of images in the middle of their bins.

    Args:
        model: Gives logits of images in [0, 1).
        images: Their parts.
        config: How many of them are tested.
        reals: Makes of integers what the model takes.
    """

    selection = ("validation", "error_rate")

    def __init__(
        self,
        model: Classifier,
        images: ImageSplits,
        config: ImagesConfig,
        reals: Callable[[Tensor], Tensor],
    ) -> None:
        self.model = model
        self.images = images
        self.config = config
        self.reals = reals
        self.splits = ("validation", "train") if config.evaluate_train else ("validation",)

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Means over images, and the standard error of the error rate."""
        part = part_under_test(self.images, self.config, split)
        figures = class_figures(self.logits(part, split, workers), self._labels(part))
        means = {name: float(values.mean()) for name, values in figures.items()}
        return means | mean_of("error_rate", figures["error_rate"])

    def test(self, workers: Workers) -> Tested:
        """Every test image; the figure of merit is the error rate."""
        part = part_under_test(self.images, self.config, "test")
        figures = class_figures(self.logits(part, "test", workers), self._labels(part))
        merit, nats = figures.pop("error_rate"), figures["cross_entropy"]
        return Tested("cross_entropies", nats, "error_rate", merit, figures)

    def audit(self) -> Mapping[str, object]:
        """What images it was trained on."""
        return {"images": self.images.train.name}

    def confusion(self) -> Int[Tensor, "classes classes"]:
        """Of the validation images."""
        part, size = (
            part_under_test(self.images, self.config, "validation"),
            self.config.test_batch_size,
        )
        logits = [self._batch(part, start) for start in range(0, len(part), size)]
        return confusion(torch.cat(logits), self._labels(part))

    def logits(self, part: ImageSet, split: str, workers: Workers) -> Logits:
        """Of all images of a part."""
        starts = range(0, len(part), self.config.test_batch_size)
        return workers.each(split, starts, lambda start: self._batch(part, start))

    def _batch(self, part: ImageSet, start: int) -> Logits:
        images = part.take(slice(start, start + self.config.test_batch_size))
        return self.model(self.reals(images.to(self._device())))

    def _labels(self, part: ImageSet) -> Labels:
        return part.labels.to(self._device())

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


class ConfusionFigure:
    """Which classes are taken for which, of validation images.

    Args:
        tests: Gives logits.
    """

    def __init__(self, tests: ClassificationTests) -> None:
        self.tests = tests

    def draw(self, folder: Path, step: int) -> None:
        """One picture."""
        draw_confusion(self.tests.confusion(), folder / f"confusion_{step:06d}.png")
