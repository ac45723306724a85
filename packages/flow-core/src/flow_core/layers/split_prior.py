"""The learned prior of a part that leaves a multiscale model."""

import math
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection, Context
from flow_core.rounding import without_rounding


@final
class SplitPrior(Bijection):
    """y = (x − μ(h))·e^(−s(h)): standardise the leaving part x, given the staying part h.

    The context is h. With y ~ N(0, I) this is the conditional Gaussian prior
    p(x | h) = N(x; μ(h), e^(2·s(h))) written as a layer, so that the base stays N(0, I).
    log|det ∂y/∂x| = −Σ s. s = c·tanh(r/c) of the conditioner's output (μ, r) keeps every scale
    within [e^(−c), e^c], so sampling cannot overflow. Source: Kingma & Dhariwal 2018, §3.6 and
    released code (learned split priors); Dinh et al. 2017, §3.6.

    Args:
        conditioner: Maps h to `(batch, 2·c, ...)`: μ, then r, for c leaving channels.
        log_scale_bound: c, in nats.
    """

    def __init__(self, conditioner: nn.Module, *, log_scale_bound: float = 4.0) -> None:
        super().__init__()
        if not 0 < log_scale_bound < math.inf:
            raise ValueError(f"expected a positive log_scale_bound, got {log_scale_bound}")
        self.conditioner = conditioner
        self.log_scale_bound = log_scale_bound

    @classmethod
    def convolutional(cls, staying: int, leaving: int, hidden: int) -> "SplitPrior":
        """Two 3x3 convolutions on images; the identity at first.

        Args:
            staying: Channels of the context.
            leaving: Channels of the part that leaves.
            hidden: Channels between the convolutions.
        """
        last = nn.Conv2d(hidden, 2 * leaving, 3, padding=1)
        return cls(nn.Sequential(nn.Conv2d(staying, hidden, 3, padding=1), nn.SiLU(), _zero(last)))

    @classmethod
    def dense(cls, staying: int, leaving: int, hidden: int) -> "SplitPrior":
        """Two linear layers on vectors; the identity at first."""
        last = nn.Linear(hidden, 2 * leaving)
        return cls(nn.Sequential(nn.Linear(staying, hidden), nn.SiLU(), _zero(last)))

    @without_rounding
    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """(x − μ)·e^(−s)."""
        mean, log_scale = self._condition(x, context)
        return (x - mean) * (-log_scale).exp()

    @without_rounding
    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """y·e^s + μ."""
        mean, log_scale = self._condition(y, context)
        return y * log_scale.exp() + mean

    @without_rounding
    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """(x − μ)·e^(−s) and −Σ s."""
        mean, log_scale = self._condition(x, context)
        return (x - mean) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)

    @without_rounding
    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """y·e^s + μ and Σ s."""
        mean, log_scale = self._condition(y, context)
        return y * log_scale.exp() + mean, log_scale.flatten(1).sum(1)

    def _condition(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """μ and s, each of the shape of x."""
        if context is None:
            raise ValueError("expected the staying part as context, got None")
        mean, raw = cast(Tensor, self.conditioner(context)).chunk(2, dim=1)
        if mean.shape != x.shape:
            raise ValueError(
                f"expected a conditioner that gives two times the shape {tuple(x.shape)} in "
                f"dimension 1, got {tuple(mean.shape)} for each half"
            )
        return mean, self.log_scale_bound * torch.tanh(raw / self.log_scale_bound)


def _zero(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
