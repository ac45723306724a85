"""Smooth activations whose inverses are found by Newton's method."""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from flow_core.bounds import Bounds
from flow_core.layers.activations.base import ElementwiseBijection
from flow_core.layers.activations.newton import newton_root, newton_steps
from flow_core.layers.stretch import from_slopes


@final
class SmoothLeakyReLU(ElementwiseBijection):
    """y = α·x + (1 − α)·log(1 + e^x): slope α far below 0, slope 1 far above.

    f'(x) = α + (1 − α)·σ(x) = (α + e^x)/(1 + e^x). The inverse has no closed form. Source: Keller
    et al. 2021 (Self Normalizing Flows).

    Args:
        alpha: α, between 0 and 1.
    """

    def __init__(self, alpha: float = 0.3) -> None:
        super().__init__()
        if not 0 < alpha < 1:
            raise ValueError(f"expected 0 < alpha < 1, got {alpha}")
        self.alpha = alpha
        # f is convex and f(x) ≥ max(x, αx), so min(y, y/α) lies right of the root, from where
        # Newton's method descends. It is furthest from the root, by e, at y = 0 (left of 0 its
        # slope 1/α in y is above that of the root, right of 0 its slope 1 is below), where
        # αe = (1 − α)·log(1 + e^(−e)) ≤ (1 − α)·e^(−e), so e ≤ log(1/α), by W(z) ≤ log(1 + z).
        # (log f')' = (1 − α)·e^x/((α + e^x)(1 + e^x)) is largest at e^x = √α.
        root = math.sqrt(alpha)
        self._steps = newton_steps(-math.log(alpha), (1 - root) / (1 + root))

    def extra_repr(self) -> str:
        """α shown in the representation of a model."""
        return f"alpha={self.alpha}"

    def bounds(self) -> Bounds:
        """1 and 1/α."""
        return from_slopes(self.alpha, 1.0)

    def value(self, x: Tensor) -> Tensor:
        """α·x + (1 − α)·log(1 + e^x)."""
        return self.alpha * x + (1 - self.alpha) * _softplus(x)

    def inverse_value(self, y: Tensor) -> Tensor:
        """The x with α·x + (1 − α)·log(1 + e^x) = y."""
        start = torch.minimum(y, y / self.alpha)
        return newton_root(self.value, self._slope, y, start, self._steps)

    def log_slope(self, x: Tensor) -> Tensor:
        """log(α + e^x) − log(1 + e^x), which is exactly 0 or log α far from 0."""
        log_alpha = math.log(self.alpha)
        above = _softplus(log_alpha - x) - _softplus(-x)
        below = _softplus(x - log_alpha) - _softplus(x) + log_alpha
        return torch.where(x > 0, above, below)

    def _slope(self, x: Tensor) -> Tensor:
        return self.alpha + (1 - self.alpha) * torch.sigmoid(x)


@final
class SmoothTanh(ElementwiseBijection):
    """y = tanh(α·x) + β·x: slope α + β at 0, slope β far away.

    f'(x) = β + α/cosh²(αx). The inverse has no closed form. Source: Keller et al. 2021 (Self
    Normalizing Flows).

    Args:
        alpha: α, positive.
        beta: β, positive.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.1) -> None:
        super().__init__()
        if not (0 < alpha < math.inf and 0 < beta < math.inf):
            raise ValueError(f"expected positive alpha and beta, got alpha={alpha}, beta={beta}")
        self.alpha = alpha
        self.beta = beta
        # f is odd, and concave above 0 with f(x) ≤ min((α + β)·x, βx + 1), so the larger of
        # y/(α + β) and (y − 1)/β lies left of the root, from where Newton's method ascends. In
        # t = αx and with r = β/α it is furthest from the root where the two lines meet, at t = 1:
        # there the root 1 + e has re = 1 − tanh(1 + e) ≤ 2e^(−2)·e^(−2e), so
        # 2e ≤ log(1 + 4e^(−2)/r), by W(z) ≤ log(1 + z).
        # −(log f')' = 2·tanh(t)·s/(r + s) with s = 1/cosh²(t) ≤ 1 is below 2/(1 + r).
        distance = (math.log(beta + 4 * math.exp(-2) * alpha) - math.log(beta)) / 2
        self._steps = newton_steps(distance, 2 * alpha / (alpha + beta))

    def extra_repr(self) -> str:
        """α and β shown in the representation of a model."""
        return f"alpha={self.alpha}, beta={self.beta}"

    def bounds(self) -> Bounds:
        """α + β and 1/β."""
        return from_slopes(self.beta, self.alpha + self.beta)

    def value(self, x: Tensor) -> Tensor:
        """tanh(α·x) + β·x."""
        return torch.tanh(self.alpha * x) + self.beta * x

    def inverse_value(self, y: Tensor) -> Tensor:
        """The x with tanh(α·x) + β·x = y."""
        size = torch.maximum(y.abs() / (self.alpha + self.beta), (y.abs() - 1) / self.beta)
        return newton_root(self.value, self._slope, y, size.copysign(y), self._steps)

    def log_slope(self, x: Tensor) -> Tensor:
        """log(β + α/cosh²(αx))."""
        return self._slope(x).log()

    def _slope(self, x: Tensor) -> Tensor:
        # 1/cosh²(t) = 4·σ(2t)·σ(−2t) neither overflows nor cancels, as 1 − tanh²(t) would.
        twice = 2 * self.alpha * x
        return self.beta + 4 * self.alpha * torch.sigmoid(twice) * torch.sigmoid(-twice)


def _softplus(x: Tensor) -> Tensor:
    # torch's softplus drops e^(−x) above a threshold, which float64 sees.
    return -F.logsigmoid(-x)
