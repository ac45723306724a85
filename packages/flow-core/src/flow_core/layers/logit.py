"""From the unit interval to the real line."""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds, ratio
from flow_core.domain import Domain, LocalBounds
from flow_core.events import per_sample_sum
from flow_core.layers.stretch import elementwise
from flow_core.lipschitz.plain import widened_up
from flow_core.passes import Direction, Pass
from flow_core.statistics import true_on_all_ranks


@final
class LogitTransform(Bijection):
    """y = logit(s) with s = α + (1 − 2α)·x, from [0, 1] to the real line.

    log|dy/dx| = log(1 − 2α) − log s − log(1 − s). 1 − s is formed as α + (1 − 2α)·(1 − x), which is
    exact near x = 1. `Invert(LogitTransform(0.0))` is the sigmoid. Values outside
    [−α/(1 − 2α), 1 + α/(1 − 2α)] give NaN: looking for them would stop the device at every pass,
    so `initialize` looks once. Source: Dinh et al. 2017, §4.1.

    Args:
        alpha: Distance kept from 0 and 1; at least 0, below 1/2.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"expected 0 <= alpha < 0.5, got {alpha}")
        self.alpha = alpha
        beyond = alpha / (1 - 2 * alpha)
        # torch declares this class without types.
        self.domain = constraints.interval(-beyond, 1 + beyond)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """α shown in the representation of a model."""
        return f"alpha={self.alpha}"

    def bounds(self) -> Bounds:
        """1/(4·(1 − 2α)) for the inverse; the logit has no largest slope where its values end."""
        return Bounds(inverse=0.25 / (1 - 2 * self.alpha))

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """Of the slopes (1 − 2α)/(s(1 − s)) at the values of the domain.

        On [0, 1] the largest is (1 − 2α)/(α(1 − α)). Outside of its own domain the layer is NaN, so
        only what lies inside counts. Source: Behrmann et al. 2021, table 1.
        """
        slope = 1 - 2 * self.alpha
        if direction == "transform":
            beyond = self.alpha / slope
            least, most = (min(max(x, -beyond), 1 + beyond) for x in (domain.lower, domain.upper))
            domain = domain.image(least, most)
            lower, upper = (self.alpha + slope * x for x in (domain.lower, domain.upper))
        else:
            lower, upper = (1 / (1 + math.exp(-max(y, -700))) for y in (domain.lower, domain.upper))
        steepest = min(s * (1 - s) for s in (lower, upper))
        flattest = min(max(0.5, lower), upper)
        bounds = Bounds(
            ratio(slope, steepest - 1e-16), widened_up(flattest * (1 - flattest) / slope)
        )
        return elementwise(self, bounds, domain, direction)

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Look once, in the pass that initializes, whether the data lie in [0, 1]."""
        if not how.initializes or how.direction == "inverse":
            return
        inside = (x >= 0) & (x <= 1)
        if not true_on_all_ranks(inside):
            raise ValueError(
                "LogitTransform: expected values in [0, 1], got others here or on another rank, "
                f"the first of them here {x[~inside][:3].tolist()}; scale the data, for integers "
                "with Dequantized"
            )

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        log_s, log_t = self._logs(x)
        return log_s - log_t, how.log_det(
            x, lambda: per_sample_sum(self._log_slope() - log_s - log_t)
        )

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        x = (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha)

        def log_det() -> Tensor:
            return per_sample_sum(F.logsigmoid(y) + F.logsigmoid(-y) - self._log_slope())

        return x, how.log_det(y, log_det)

    def _logs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - 2 * self.alpha
        return (self.alpha + slope * x).log(), (self.alpha + slope * (1 - x)).log()

    def _log_slope(self) -> float:
        return math.log1p(-2 * self.alpha)
