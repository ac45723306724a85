"""How likely images are, how stably a generator inverts, and what its samples are."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from flow_core.diagnostics import Diagnostics
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.flowgan.config import FlowGanConfig
from flow_apps.experiments.flowgan.judge import Judge
from flow_apps.parts.images import ImageFigures, ImageTests
from flow_apps.parts.merit import mean_of
from flow_apps.parts.stability import SPLIT, Stability, StabilityFigures
from flow_apps.training import Tested, Tests, Workers
from flow_apps.training.randomness import isolated

SAMPLES = "samples"


class FlowGanTests(Tests):
    """Exact bits per dimension, and stability at images and at samples.

    The last weights are the result: what an adversary wants has no figure of merit.

    Args:
        images: Tests of the likelihood.
        config: Of the experiment.
        judge: Tells what samples look like, or None.
    """

    selection = None

    def __init__(self, images: ImageTests, config: FlowGanConfig, judge: Judge | None) -> None:
        self.images, self.config, self.judge = images, config, judge
        self.flow, self.invertibility = images.model.flow, images.invertibility
        self.splits = (*images.splits, SPLIT, SAMPLES)
        measured = partial(Stability, self.flow.bijection, config=config.stability)
        using = Settings()
        self.at_images = measured(points=self._images, using=using)
        self.at_samples = measured(points=self._samples, using=using)
        self._last: dict[str, float] = {}

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Bits per dimension at every evaluation; the rest where it is due, and in the end."""
        if split not in (SPLIT, SAMPLES):
            return likelihood_figures(
                self.images.bits(self.images.log_likelihoods(split, 1, workers))
            )
        due = self.config.stability.due(step, self.config.training.iterations)
        if split == SPLIT:
            found = self.at_images.measure(workers) if due else {}
        else:
            found = self._quality(workers) | (self.at_samples.measure(workers) if due else {})
        if due:
            prefix = "" if split == SPLIT else f"{SAMPLES}_"
            self._last |= {f"{prefix}{name}": value for name, value in found.items()}
        return found

    def test(self, workers: Workers) -> Tested:
        """Every test image, the mean over draws of the noise; it is finite if all of them are."""
        tested = self.images.test(workers)
        self._last["test_not_finite"] = float((~tested.values.isfinite()).sum())
        return tested

    def audit(self) -> Mapping[str, object]:
        """What images it was trained on, and the last figures of stability and samples."""
        return {**self.images.audit(), **self._last}

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few images."""
        return self.images.diagnose()

    def _quality(self, workers: Workers) -> dict[str, float]:
        """How many samples are not finite, and what the judge says."""
        size, count = self.images.config.test_batch_size, self.config.samples
        sizes = [min(size, count - start) for start in range(0, count, size)]
        rows = workers.each(SAMPLES, sizes, self._told)
        nan, infinite, *verdicts = rows.unbind(1)
        found = {"nan": float(nan.sum()), "inf": float(infinite.sum())}
        if self.judge is not None:
            found |= self.judge.figures(torch.stack(verdicts, 1))
        return found

    def _told(self, count: int) -> Float[Tensor, "count told"]:
        """Of every sample: whether it has a NaN, whether an infinity, and the verdict."""
        samples = self.flow.sample((count,))
        flat = samples.flatten(1)
        broken = torch.stack([flat.isnan().any(1), flat.isinf().any(1)], 1).to(flat.dtype)
        if self.judge is None:
            return broken
        return torch.cat([broken, self.judge.verdicts(samples).to(flat.dtype)], 1)

    def _images(self, count: int) -> Float[Tensor, " count *event"]:
        """Validation images in the middle of their bins."""
        return self.images.points(self.images.part("validation"), count)

    def _samples(self, count: int) -> Float[Tensor, " count *event"]:
        """The same ones on every process."""
        device = next(self.flow.parameters()).device
        with isolated(device, self.config.training.seed, "points among samples"):
            return self.flow.sample((count,))


def likelihood_figures(bits: Float[Tensor, " count"]) -> dict[str, float]:
    """Mean and standard error of finite values, and how many are not."""
    finite = bits[bits.isfinite()]
    counted = {"not_finite": float(len(bits) - len(finite))}
    return counted | (mean_of("bits_per_dim", finite) if len(finite) else {})


class FlowGanFigures:
    """Samples, reconstructions and interpolations, and the course of the stability.

    Args:
        tests: Gives images, and the generator.
    """

    def __init__(self, tests: FlowGanTests) -> None:
        self.parts = (ImageFigures(tests.images.model, tests.images), StabilityFigures())

    def draw(self, folder: Path, step: int) -> None:
        """Sheets of images, and curves."""
        for part in self.parts:
            part.draw(folder, step)
