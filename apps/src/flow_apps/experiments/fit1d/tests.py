"""How good a fit is."""

from collections.abc import Mapping
from pathlib import Path

import torch
from flow_core.diagnostics import Diagnostics
from flow_core.distributions import Flow
from flow_core.settings import Settings
from flow_data.functions import TARGETS, Column, sample_target
from torch import Tensor

from flow_apps.experiments.fit1d.config import Fit1dConfig
from flow_apps.figures.fit import draw_fit
from flow_apps.parts.invertibility import Invertibility
from flow_apps.parts.merit import mean_of
from flow_apps.training import Tested, Tests, Workers
from flow_apps.training.randomness import generator

_TEST_SEED = "1-d test points"
_GRID = 2001
_AT_A_TIME = 5000


class Fit1dTests(Tests):
    """Mean squared error on fresh points that do not depend on the seed."""

    splits = ("validation", "test")
    selection = ("validation", "mse")

    def __init__(self, config: Fit1dConfig, model: Flow, using: Settings) -> None:
        self.config = config
        self.model = model
        self.using = using
        self.invertibility = Invertibility(model.bijection, self._final, using)

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Mean squared error."""
        return mean_of("mse", self._squared_errors(split, step, workers))

    def test(self, workers: Workers) -> Tested:
        """Every point of the final test."""
        errors = self._squared_errors("test", self.config.training.iterations, workers)
        return Tested("squared_errors", errors, "mse", errors)

    def audit(self) -> Mapping[str, object]:
        """Round trip."""
        return self.invertibility.audit()

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few points."""
        return self.invertibility.diagnose()

    def _final(self, count: int) -> Tensor:
        return self._points("test", self.config.training.iterations)[0][:count]

    def _squared_errors(self, split: str, step: int, workers: Workers) -> Tensor:
        points = zip(*(torch.split(t, _AT_A_TIME) for t in self._points(split, step)), strict=True)
        return workers.each(split, list(points), self._errors)

    def _errors(self, points: tuple[Tensor, Tensor]) -> Tensor:
        x, y = points
        return (self.model.bijection.transform(x, using=self.using) - y).square().flatten()

    def _points(self, split: str, step: int) -> tuple[Tensor, Tensor]:
        source, device = generator(_TEST_SEED, split, step), device_of(self.model)
        return sample_target(self.config.target, self.config.test_size, source, device=device)


class Fit1dFigures:
    """The function and its fit."""

    def __init__(self, config: Fit1dConfig, model: Flow) -> None:
        self.config = config
        self.model = model

    def draw(self, folder: Path, step: int) -> None:
        """One picture."""
        draw_fit(*fitted(self.config, self.model), folder / f"fit_{step:06d}.png")


def fitted(config: Fit1dConfig, model: Flow) -> tuple[Column, Column, Column]:
    """Points of a grid over the domain, the function there and its fit."""
    target = TARGETS[config.target]
    x = torch.linspace(*target.domain, _GRID, device=device_of(model))[:, None]
    return x, target.function(x), model.bijection.transform(x)


def device_of(model: Flow) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device
