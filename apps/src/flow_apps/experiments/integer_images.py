"""How good a flow of integer images is, in bits per dimension."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from flow_core.dequantization import Dequantized, UniformDequantizer, bits_per_dim
from flow_core.distributions import Flow
from flow_core.initialization import initialize
from flow_data import ImageSet, batch_indices, in_order
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.contraction import ContractionConfig
from flow_apps.experiments.density import DensityObjective
from flow_apps.experiments.image_sets import ImagesConfig, augmented, load_images
from flow_apps.figures.images import draw_images
from flow_apps.training import Batch, TrainingConfig
from flow_apps.training.randomness import derive_seed, generator

_PICTURES = 36


class IntegerImageObjective(DensityObjective):
    """Bits per dimension of integer images under uniform dequantisation.

    Args:
        images: Which images.
        training: Gives seed and batch size.
        contraction: How Lipschitz constants are kept, where layers have them.
        make_flow: Makes the flow for images of a shape; drawn from the seed alone.
    """

    selection = ("validation", "bits_per_dim")
    unit = "bits_per_dim"
    net: Dequantized

    def __init__(
        self,
        images: ImagesConfig,
        training: TrainingConfig,
        contraction: ContractionConfig,
        make_flow: Callable[[tuple[int, int, int]], Flow],
    ) -> None:
        super().__init__(contraction)
        self.tests = images
        self.training_config = training
        self.images = load_images(images)
        self.splits = ("validation", "train") if images.evaluate_train else ("validation",)
        self.test_draws = images.test_draws
        train = self.images.train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(training.seed, "model"))
            flow = make_flow(train.shape)
        self.net = Dequantized(flow, UniformDequantizer(), train.levels)

    def audit(self) -> Mapping[str, object]:
        """What images it was trained on, round trip and certified bounds."""
        return {"images": self.images.train.name, **super().audit()}

    @property
    def model(self) -> Dequantized:
        """The distribution of integer images."""
        return self.net

    @property
    def flow(self) -> Flow:
        """The flow of real images in [0, 1)."""
        return self.net.flow

    def initialize(self, batch: Batch) -> None:
        """Standardise the input of every block."""
        initialize(self.net, batch[0])

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean bits per dimension."""
        bits = self.merit(self.net(batch[0], using=self.using)).mean()
        return bits, {"bits_per_dim": bits.detach()}

    def batch(self, step: int) -> Batch:
        """Images in an order that follows from seed and step."""
        training, train = self.training_config, self.images.train
        order = batch_indices(len(train), training.batch_size, step - 1, seed=training.seed)
        drawn = generator(training.seed, "augment", step)
        return (augmented(train.take(order), self.tests.augment, drawn),)

    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Mean bits per dimension from one draw of the noise."""
        return {self.unit: float(self.merit(self.log_likelihoods(split, 1)).mean())}

    def log_likelihoods(self, split: str, draws: int) -> Float[Tensor, " count"]:
        """Mean over draws of the bound of the log-likelihood of every image."""
        batches = in_order(self._part(split), self.tests.test_batch_size)
        return torch.cat([self._mean_bound(images.to(self._device()), draws) for images in batches])

    def merit(self, log_likelihood: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
        """Bits per dimension."""
        return bits_per_dim(log_likelihood, self.flow.event_shape)

    def test_points(self, count: int) -> Float[Tensor, " count *event"]:
        """Test images in the middle of their bins, in [0, 1)."""
        return self.points(self.images.test, count)

    def points(self, images: ImageSet, count: int) -> Float[Tensor, " count *event"]:
        """The first images of a set in the middle of their bins, at most a batch of tests."""
        first = images.take(slice(min(count, self.tests.test_batch_size)))
        return (first.to(self._device(), torch.get_default_dtype()) + 0.5) / self.net.levels

    def figures(self, folder: Path, step: int) -> None:
        """Samples, and real images above their reconstructions."""
        self.draw_samples(self.sample(_PICTURES), folder / f"samples_{step:06d}.png")
        x = self.test_points(_PICTURES // 2)
        y = self.bijection.transform(x, using=self.using)
        again = self.bijection.inverse(y, using=self.using)
        self.draw_samples(torch.cat([x, again]), folder / f"reconstructions_{step:06d}.png")

    def draw_samples(self, samples: Tensor, path: Path) -> None:
        """A sheet of images."""
        draw_images(samples, path)

    def _mean_bound(self, images: Tensor, draws: int) -> Tensor:
        bounds = [self.net.log_prob_bound(images, using=self.using) for _ in range(draws)]
        return torch.stack(bounds).mean(0)

    def _part(self, split: str) -> ImageSet:
        parts = {
            "train": (self.images.train, self.tests.validation_size),
            "validation": (self.images.validation, self.tests.validation_size),
            "test": (self.images.test, self.tests.test_size),
        }
        images, limit = parts[split]
        return images.select(torch.arange(min(limit, len(images))))

    def _device(self) -> torch.device:
        return next(self.net.parameters()).device
