"""How good flows of invertible convolutions are, layer by layer where asked for."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from flow_core.dequantization import Dequantized, bits_per_dim
from flow_core.diagnostics import Diagnostics, trace_layers
from flow_core.layers import InverseConv2d, SelfNormConv2d
from flow_core.settings import Settings
from flow_data import WHOLE
from torch import Tensor

from flow_apps.experiments.glow.config import GlowConfig
from flow_apps.experiments.glow.loss import LabelledLoss, SurrogateLoss
from flow_apps.figures.filters import draw_filters
from flow_apps.figures.images import draw_above
from flow_apps.parts.images import PICTURES, ImageBatches, ImageFigures, ImageTests
from flow_apps.parts.sampling import draw_samples
from flow_apps.parts.stability import SPLIT, Stability, StabilityFigures
from flow_apps.timing import Timing, time_calls
from flow_apps.training import Batch, Loss, Tested, Tests, Workers

_TRACED = 16
_CALLS = 10


class GlowTests(Tests):
    """Exact bits per dimension, with what it is trained on beside them.

    Args:
        config: Of the experiment.
        images: Tests of the likelihood.
        loss: What the model is trained on.
        data: Batches, for timings.
    """

    selection = ImageTests.selection

    def __init__(
        self, config: GlowConfig, images: ImageTests, loss: Loss, data: ImageBatches
    ) -> None:
        self.config = config
        self.images = images
        self.invertibility = images.invertibility
        self.loss = loss
        self.data = data
        self.model: Dequantized = images.model
        self.stability = Stability(self.model.flow.bijection, self._points, config.stability)
        self.splits = (*images.splits, SPLIT) if config.stability.every else images.splits
        self._of_last_weights: dict[str, float] = {}

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Bits per dimension; what else it is trained on; layers of validation images.

        Stability is a split of its own.
        """
        if split == SPLIT:
            return self._stability_figures(step, workers)
        results = self.images.evaluate(split, step, workers)
        if isinstance(self.loss, SurrogateLoss | LabelledLoss):
            results |= self._further_figures(split)
        if self.config.verbose and split == "validation":
            results |= self._layer_figures()
        return results

    def test(self, workers: Workers) -> Tested:
        """Every test image, the mean over draws of the noise."""
        return self.images.test(workers)

    def audit(self) -> Mapping[str, object]:
        """Round trip, stability, bounds of the growth of inverses, and times if asked for."""
        bounds = {
            name: layer.growth_bound()
            for name, layer in self.model.flow.bijection.named_modules()
            if isinstance(layer, InverseConv2d)
        }
        times = {name: asdict(timing) for name, timing in self._timings().items()}
        found = {"growth_bound": bounds, "timing": times}
        known = {**self.images.audit(), **self._of_last_weights}
        return {**known, **{name: value for name, value in found.items() if value}}

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few images."""
        return self.images.diagnose()

    def _stability_figures(self, step: int, workers: Workers) -> dict[str, float]:
        """Round trips and singular values where they are due."""
        iterations = self.config.training.iterations
        if not self.config.stability.due(step, iterations):
            return {}
        measured = self.stability.measure(workers)
        if step == iterations:
            self._of_last_weights = measured
        return measured

    def _points(self, count: int) -> Tensor:
        return self.images.points(self.images.part("validation"), count)

    def _further_figures(self, split: str) -> dict[str, float]:
        """What a batch of images says of the loss, without penalties."""
        part, few = self.images.part(split), slice(self.images.config.test_batch_size)
        x, y = (self.images.on_device(values) for values in (part.take(few), part.labels[few]))
        _, scalars = self.loss(Batch(x, y))
        return {name: float(value) for name, value in scalars.items()}

    def _layer_figures(self) -> dict[str, float]:
        """Bits per dimension, reconstruction error and size of every layer, by its name."""
        figures: dict[str, float] = {}
        flow = self.model.flow
        images = self.images.points(self.images.images.validation, _TRACED)
        for name, trace in trace_layers(flow.bijection, images).items():
            bits = bits_per_dim(torch.tensor(trace.log_det), flow.event_shape)
            figures[f"layer/{name}/bits_per_dim"] = float(bits)
            figures[f"layer/{name}/roundtrip_error"] = trace.roundtrip_error
            figures[f"layer/{name}/largest_output"] = trace.largest_output
        return figures

    def _timings(self) -> dict[str, Timing]:
        """Forward and training passes of a batch, and samples, a batch at once and one by one."""
        if not self.config.timing:
            return {}
        device, size = next(self.model.parameters()).device, self.config.training.batch_size
        batch = self.data.batch(1, WHOLE).to(device)
        flow = self.model.flow
        calls: dict[str, tuple[Callable[[], object], int]] = {
            "forward": (lambda: self.model(batch.x), size),
            "training": (lambda: self._gradients(batch), size),
            "sampling": (lambda: draw_samples(flow, size), size),
            "single_sampling": (lambda: draw_samples(flow, 1), 1),
        }
        timed = partial(time_calls, device=device, calls=_CALLS)
        return {name: timed(call, samples=samples) for name, (call, samples) in calls.items()}

    def _gradients(self, batch: Batch) -> None:
        """A training pass without its optimizer step."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        with torch.enable_grad():
            loss, _ = self.loss(batch)
            torch.autograd.grad(loss, parameters, allow_unused=True)


class GlowFigures:
    """Samples, reconstructions and filters; samples by approximate inverses where asked for."""

    def __init__(self, config: GlowConfig, tests: GlowTests) -> None:
        self.config = config
        self.model = tests.model
        self.images = ImageFigures(tests.model, tests.images)
        self.surrogate = isinstance(tests.loss, SurrogateLoss)

    def draw(self, folder: Path, step: int) -> None:
        """Sheets of images, and one of kernels."""
        self.images.draw(folder, step)
        if kernels := filters(self.model):
            draw_filters(kernels, folder / f"filters_{step:06d}.png")
        if self.config.stability.every:
            StabilityFigures().draw(folder, step)
        if self.surrogate and self.config.self_norm.approximate_samples:
            self._draw_approximate(folder / f"exact_above_approximate_{step:06d}.png")

    def _draw_approximate(self, path: Path) -> None:
        flow = self.model.flow
        z = flow.base.rsample(PICTURES)
        exact = flow.bijection.inverse(z)
        approximate = flow.bijection.inverse(z, using=Settings(mode="approximate_inverse"))
        draw_above(exact, approximate, path)


def filters(model: Dequantized) -> dict[str, Tensor]:
    """The kernels of inverse and of self-normalizing convolutions, by the names of layers."""
    found: dict[str, Tensor] = {}
    for name, layer in model.flow.bijection.named_modules():
        if isinstance(layer, InverseConv2d):
            found[name] = layer.taps().weight
        elif isinstance(layer, SelfNormConv2d):
            found |= {name: layer.weight, f"{name}, inverse": layer.inverse_weight}
    return found
