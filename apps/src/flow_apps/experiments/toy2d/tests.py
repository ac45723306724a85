"""How good the flow of a two-dimensional density is."""

from collections.abc import Mapping
from pathlib import Path

import torch
from flow_core.diagnostics import Diagnostics
from flow_core.distributions import Flow
from flow_data.toy import sample_toy
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.figures.density import draw_density
from flow_apps.parts.invertibility import Invertibility
from flow_apps.parts.merit import mean_of
from flow_apps.parts.settings import SplitSettings
from flow_apps.training import Tested, Tests, Workers
from flow_apps.training.randomness import generator

_TEST_SEED = "2-d test points"
_AT_A_TIME = 5000
_DRAWN = 5000


class Toy2dTests(Tests):
    """Mean negative log-likelihood in nats of fresh points that do not depend on the seed."""

    splits = ("validation", "test")
    selection = ("validation", "nats")

    def __init__(self, config: Toy2dConfig, model: Flow, using: SplitSettings) -> None:
        self.config = config
        self.model = model
        self.using = using
        self.invertibility = Invertibility(model.bijection, self._final, using.test)

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Nats; validation points are a fifth of the test points."""
        size = self.config.test_size if split == "test" else max(1, self.config.test_size // 5)
        points = self.points(split, step, size)
        return mean_of("nats", -self._log_prob(split, points, workers))

    def test(self, workers: Workers) -> Tested:
        """Every point of the final test."""
        points = self._final(self.config.test_size)
        log_prob = self._log_prob("test", points, workers)
        return Tested("log_likelihoods", log_prob, "nats", -log_prob)

    def points(self, split: str, step: int, count: int) -> Float[Tensor, "count 2"]:
        """Fresh points of a split."""
        source = generator(_TEST_SEED, split, step)
        device = next(self.model.parameters()).device
        return sample_toy(self.config.density, count, generator=source, device=device)

    def audit(self) -> Mapping[str, object]:
        """Round trip."""
        return self.invertibility.audit()

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few points."""
        return self.invertibility.diagnose()

    def _final(self, count: int) -> Tensor:
        return self.points("test", self.config.training.iterations, count)

    def _log_prob(self, split: str, points: Tensor, workers: Workers) -> Tensor:
        parts = torch.split(points, _AT_A_TIME)
        using = self.using.of(split)
        return workers.each(split, parts, lambda x: self.model.log_prob(x, using=using))


class Toy2dFigures:
    """The data and the model's density."""

    def __init__(self, tests: Toy2dTests) -> None:
        self.tests = tests

    def draw(self, folder: Path, step: int) -> None:
        """One picture."""
        points = self.tests.points("figure", 0, _DRAWN)
        draw_density(self.tests.model, points, folder / f"density_{step:06d}.png")
