"""How well a projection is fitted, and what that does to the inverse."""

from collections.abc import Mapping
from functools import partial

import torch
from flow_core.diagnostics import Diagnostics, Point, invertible_map
from flow_core.distributions import Flow
from flow_core.jacobian import jacobian_of
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.regression2d.config import Regression2dConfig
from flow_apps.experiments.regression2d.data import drawn
from flow_apps.parts.invertibility import Invertibility
from flow_apps.parts.stability import (
    SPLIT,
    extreme_singular_values,
    round_trip_errors,
    round_trip_figures,
    spectral_figures,
)
from flow_apps.training import Batch, Tested, Tests, Workers

_AT_A_TIME = 5000


class Regression2dTests(Tests):
    """Squared errors of fresh points; round trips and singular values at the training points."""

    splits = ("validation", SPLIT)

    def __init__(self, config: Regression2dConfig, model: Flow) -> None:
        self.config = config
        self.model = model
        self.invertibility = Invertibility(model.bijection, self._points, Settings())

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """The squared error of a value, or figures of the inverse."""
        if split == SPLIT:
            return self._stability(workers)
        batch = self._drawn(split, self.config.test_size)
        return {"mse": float(self._errors(split, batch, workers).mean())}

    def test(self, workers: Workers) -> Tested:
        """Every test point."""
        batch = self._drawn("test", self.config.test_size)
        errors = self._errors("test", batch, workers)
        return Tested("squared_errors", errors, "mse", errors)

    def audit(self) -> Mapping[str, object]:
        """Round trip of the test points."""
        return self.invertibility.audit()

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few points."""
        return self.invertibility.diagnose()

    def _errors(self, split: str, batch: Batch, workers: Workers) -> Float[Tensor, " count"]:
        assert batch.y is not None
        both = torch.split(torch.cat([batch.x, batch.y], 1), _AT_A_TIME)
        return workers.each(split, both, self._error)

    def _error(self, both: Float[Tensor, "count 4"]) -> Float[Tensor, " count"]:
        x, y = both.split_with_sizes([2, 2], 1)
        return (self.model.bijection.transform(x) - y).square().mean(1)

    def _stability(self, workers: Workers) -> dict[str, float]:
        """Round trips of the training points, and singular values where they are worst.

        Source of the choice of the point: the released code. Beside it is the largest condition
        number of all points, which does not jump from one to another.
        """
        model = invertible_map(self.model.bijection)
        x = self._drawn("train", self.config.points).x
        parts = torch.split(x, _AT_A_TIME)
        errors = workers.each(SPLIT, parts, partial(round_trip_errors, model))
        wide = Point(x).to(torch.float64).x
        extremes = extreme_singular_values(jacobian_of(model.at(torch.float64).transform, wide))
        # What is no number is the worst there is.
        worst = errors.nan_to_num(nan=torch.inf).argmax()
        return {
            **round_trip_figures("reconstruction", errors),
            **spectral_figures("", extremes[worst : worst + 1]),
            **ends(extremes),
        }

    def _points(self, count: int) -> Float[Tensor, "count 2"]:
        return self._drawn("test", count).x

    def _drawn(self, split: str, count: int) -> Batch:
        device = next(self.model.parameters()).device
        return drawn(self.config, split, count).to(device)


def ends(extremes: Float[Tensor, "count 2"]) -> dict[str, float]:
    """The largest condition number and the smallest singular value of the finite Jacobians."""
    largest, smallest = extremes[extremes.isfinite().all(1)].unbind(1)
    if not len(largest):
        return {}
    return {
        "condition_max": float((largest / smallest).max()),
        "smallest_singular_value_min": float(smallest.min()),
    }
