"""Batches, likelihoods, tests and pictures of integer images."""

from collections.abc import Mapping
from pathlib import Path

import torch
from flow_core.dequantization import Dequantized, bits_per_dim
from flow_core.diagnostics import Diagnostics
from flow_core.settings import Settings
from flow_data import ImageSet, ImageSplits, Share, batch_indices
from jaxtyping import Float
from torch import Tensor

from flow_apps.config import TrainingConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.figures.images import draw_images
from flow_apps.parts.image_sets import augmented
from flow_apps.parts.invertibility import Invertibility
from flow_apps.parts.sampling import draw_samples
from flow_apps.training import Batch, Tested, Tests, Workers
from flow_apps.training.randomness import generator

PICTURES = 36


class ImageBatches:
    """Training images in an order that follows from seed and step, with labels and noise.

    Args:
        images: What is trained on.
        training: Gives seed and batch size.
        config: How images are changed.
    """

    def __init__(self, images: ImageSet, training: TrainingConfig, config: ImagesConfig) -> None:
        self.images = images
        self.training = training
        self.config = config

    def batch(self, step: int, share: Share) -> Batch:
        """A share of a step; only its images are read."""
        seed, size = self.training.seed, self.training.batch_size
        order = share.of(batch_indices(len(self.images), size, step - 1, seed=seed))
        drawn = generator(seed, "augment", step)
        x = augmented(self.images.take(order), self.config.augment, drawn, share)
        noise = torch.rand(size, *self.images.shape, generator=generator(seed, "noise", step))
        return Batch(x, self.images.labels[order], share.of(noise))


class ImageTests(Tests):
    """Bits per dimension of integer images.

    Args:
        model: The distribution of the images.
        images: Their parts.
        config: How many of them are tested, and how often.
        using: What tests do their work with.
    """

    selection = ("validation", "bits_per_dim")

    def __init__(
        self, model: Dequantized, images: ImageSplits, config: ImagesConfig, using: Settings
    ) -> None:
        self.model = model
        self.images = images
        self.config = config
        self.using = using
        self.splits = ("validation", "train") if config.evaluate_train else ("validation",)
        self.invertibility = Invertibility(model, model.flow.bijection, self._points, using)

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Mean bits per dimension from one draw of the noise."""
        return {"bits_per_dim": float(self.bits(self._log_likelihoods(split, 1, workers)).mean())}

    def test(self, workers: Workers) -> Tested:
        """Every test image, the mean over draws of the noise."""
        values = self._log_likelihoods("test", self.config.test_draws, workers)
        return Tested("log_likelihoods", values, "bits_per_dim", self.bits(values))

    def audit(self) -> Mapping[str, object]:
        """What images it was trained on, round trip and certified bounds."""
        return {"images": self.images.train.name, **self.invertibility.audit()}

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few images."""
        return self.invertibility.diagnose()

    def bits(self, log_likelihood: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
        """Bits per dimension of log-likelihoods in nats."""
        return bits_per_dim(log_likelihood, self.model.flow.event_shape)

    def part(self, split: str) -> ImageSet:
        """The images of a split that are tested."""
        parts = {
            "train": (self.images.train, self.config.validation_size),
            "validation": (self.images.validation, self.config.validation_size),
            "test": (self.images.test, self.config.test_size),
        }
        images, limit = parts[split]
        return images.select(torch.arange(min(limit, len(images))))

    def points(self, images: ImageSet, count: int) -> Float[Tensor, " count *event"]:
        """The first images of a set in the middle of their bins, in [0, 1): at most a batch."""
        first = images.take(slice(min(count, self.config.test_batch_size)))
        return (self.on_device(first).to(torch.get_default_dtype()) + 0.5) / self.model.levels

    def on_device(self, images: Tensor) -> Tensor:
        """Images where the model is."""
        return images.to(next(self.model.parameters()).device)

    def _points(self, count: int) -> Tensor:
        return self.points(self.images.test, count)

    def _log_likelihoods(self, split: str, draws: int, workers: Workers) -> Tensor:
        """Mean over draws of the bound of the log-likelihood of every image."""
        images, size = self.part(split), self.config.test_batch_size

        def bounds(start: int) -> Tensor:
            """A batch of images."""
            x = self.on_device(images.take(slice(start, start + size)))
            found = [self.model.log_prob_bound(x, using=self.using) for _ in range(draws)]
            return torch.stack(found).mean(0)

        return workers.each(split, range(0, len(images), size), bounds)


class ImageFigures:
    """Samples, and real images above their reconstructions.

    Args:
        model: The distribution of the images.
        tests: Gives real images.
    """

    def __init__(self, model: Dequantized, tests: ImageTests) -> None:
        self.model = model
        self.tests = tests

    def draw(self, folder: Path, step: int) -> None:
        """Two sheets."""
        samples = draw_samples(self.model.flow, PICTURES, using=self.tests.using)
        draw_images(samples, folder / f"samples_{step:06d}.png")
        invertibility = self.tests.invertibility
        x = invertibility.points(PICTURES // 2)
        sheet = torch.cat([x, invertibility.reconstruct(x)])
        draw_images(sheet, folder / f"reconstructions_{step:06d}.png")
