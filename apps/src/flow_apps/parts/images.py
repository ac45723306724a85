"""Batches, likelihoods, tests and pictures of integer images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from flow_core.dequantization import Dequantized, bits_per_dim
from flow_core.diagnostics import Diagnostics
from flow_data import ImageSet, ImageSplits, Share, batch_indices
from jaxtyping import Float
from torch import Tensor

from flow_apps.config import TrainingConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.figures.images import draw_above, draw_images, draw_rows
from flow_apps.parts.image_sets import augmented, part_under_test, spread
from flow_apps.parts.invertibility import Invertibility
from flow_apps.parts.latent import decoded, encoded, interpolated
from flow_apps.parts.merit import mean_of
from flow_apps.parts.sampling import draw_samples
from flow_apps.parts.settings import SplitSettings
from flow_apps.training import Batch, Tested, Tests, Workers
from flow_apps.training.randomness import generator

PICTURES = 36

_ROWS = 6
_STEPS = 7


class ImageBatches:
    """Training images in an order that follows from seed and step, with labels and noise.

    Args:
        images: What is trained on.
        training: Gives seed and batch size.
        config: How images are changed.
        noise_shape: Of the uniform numbers of an image, see `Dequantized`.
    """

    def __init__(
        self,
        images: ImageSet,
        training: TrainingConfig,
        config: ImagesConfig,
        noise_shape: Sequence[int],
    ) -> None:
        self.images = images
        self.training = training
        self.config = config
        self.noise_shape = noise_shape

    def batch(self, step: int, share: Share) -> Batch:
        """A share of a step; only its images are read."""
        seed, size = self.training.seed, self.training.batch_size
        order = share.of(batch_indices(len(self.images), size, step - 1, seed=seed))
        drawn = generator(seed, "augment", step)
        x = augmented(self.images.take(order), self.config.augment, drawn, share)
        noise = torch.rand(size, *self.noise_shape, generator=generator(seed, "noise", step))
        return Batch(x, self.images.labels[order], share.of(noise))


class ImageTests(Tests):
    """Bits per dimension of integer images.

    Args:
        model: The distribution of the images.
        images: Their parts.
        config: How many of them are tested, and how often.
        using: What evaluations do their work with.
    """

    selection = ("validation", "bits_per_dim")

    def __init__(
        self, model: Dequantized, images: ImageSplits, config: ImagesConfig, using: SplitSettings
    ) -> None:
        self.model = model
        self.images = images
        self.config = config
        self.using = using
        self.splits = ("validation", "train") if config.evaluate_train else ("validation",)
        self.invertibility = Invertibility(model.flow.bijection, self._points, using.test)

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Mean bits per dimension from one draw of the noise, and its standard error."""
        return mean_of("bits_per_dim", self.bits(self.log_likelihoods(split, 1, workers)))

    def test(self, workers: Workers) -> Tested:
        """Every test image, the mean over draws of the noise."""
        config = self.config
        samples = config.importance_samples
        values = self.log_likelihoods("test", config.test_draws, workers, samples)
        return Tested("log_likelihoods", values, "bits_per_dim", self.bits(values))

    def audit(self) -> Mapping[str, object]:
        """What images it was trained on, and round trip."""
        return {"images": self.images.train.name, **self.invertibility.audit()}

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few images."""
        return self.invertibility.diagnose()

    def bits(self, log_likelihood: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
        """Bits per dimension of log-likelihoods in nats."""
        return bits_per_dim(log_likelihood, self.model.event_shape)

    def part(self, split: str) -> ImageSet:
        """The images of a split that are tested."""
        return part_under_test(self.images, self.config, split)

    def points(self, images: ImageSet, count: int) -> Float[Tensor, " count *event"]:
        """The first images of a set in the middle of their bins, in [0, 1): at most a batch."""
        first = images.take(slice(min(count, self.config.test_batch_size)))
        return self.model.centres(self.on_device(first))

    def on_device(self, images: Tensor) -> Tensor:
        """Images where the model is."""
        return images.to(next(self.model.parameters()).device)

    def _points(self, count: int) -> Tensor:
        return self.points(self.images.test, count)

    def log_likelihoods(
        self, split: str, draws: int, workers: Workers, samples: int = 1
    ) -> Float[Tensor, " count"]:
        """Mean over draws of the bound of the log-likelihood of every image, in nats."""
        images, size = self.part(split), self.config.test_batch_size
        using = self.using.of(split)

        def bounds(start: int) -> Tensor:
            """A batch of images."""
            x = self.on_device(images.take(slice(start, start + size)))
            found = [self.model.importance_bound(x, samples, using=using) for _ in range(draws)]
            return torch.stack(found).mean(0)

        return workers.each(split, range(0, len(images), size), bounds)


class ImageFigures:
    """Samples, real images above their reconstructions, and what is between real images.

    Reconstructions are the ends of interpolations, so that these cost what is between alone.

    Args:
        model: The distribution of the images.
        tests: Gives real images.
    """

    def __init__(self, model: Dequantized, tests: ImageTests) -> None:
        self.model = model
        self.tests = tests

    def draw(self, folder: Path, step: int) -> None:
        """Three sheets."""
        model, using = self.model, self.tests.using.test
        samples = draw_samples(model.flow, PICTURES, using=using)
        draw_images(model.visible(samples), folder / f"samples_{step:06d}.png")
        images = self.tests.on_device(spread(self.tests.images.test, PICTURES // 2).images)
        z = encoded(model, images, using)
        found = decoded(model, z, using)
        real = model.visible(model.centres(images))
        draw_above(real, found, folder / f"reconstructions_{step:06d}.png")
        if rows := min(_ROWS, len(z) // 2):
            sheet = interpolated(model, z[: 2 * rows], found[: 2 * rows], _STEPS, using)
            draw_rows(sheet, folder / f"interpolations_{step:06d}.png")
