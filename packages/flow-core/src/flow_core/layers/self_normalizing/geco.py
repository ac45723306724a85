"""Weights of reconstruction errors that keep them at a tolerance."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.statistics import mean_over_ranks

_LARGEST = math.log(1e6)


@final
class Geco(nn.Module):
    """One weight λ per layer that grows while its reconstruction error is above a tolerance.

    λ ← λ·exp(η·c), c = ē/τ − 1 within [−1, 1], with ē an exponential moving average of the error:
    weights fall as quickly as they rise. Source: Rezende & Viola 2018 (Taming VAEs), Algorithm 1,
    with a constraint relative to τ; the released code of Self Normalizing Flows leaves τ out, so
    that its weights only grow. Weights stay within a factor of 1e6 of one; an error that is not
    finite is passed over.

    Args:
        layers: Number of weights.
        tolerance: τ, in the unit of the error.
        rate: η.
        memory: Decay of the moving average.
        initial: λ at first.
    """

    log_weights: Tensor
    average: Tensor

    def __init__(
        self,
        layers: int,
        *,
        tolerance: float,
        rate: float = 1e-3,
        memory: float = 0.9,
        initial: float = 1.0,
    ) -> None:
        super().__init__()
        positive = all(0 < value < math.inf for value in (tolerance, rate, initial))
        if layers < 1 or not positive or not 0 <= memory < 1:
            raise ValueError(
                "expected layers, tolerance, rate and initial above 0 and memory in [0, 1), got "
                f"{layers}, {tolerance}, {rate}, {initial} and {memory}"
            )
        self.tolerance, self.rate, self.memory = tolerance, rate, memory
        self.register_buffer("log_weights", torch.full((layers,), initial).log())
        # NaN: nothing has been seen.
        self.register_buffer("average", torch.full((layers,), torch.nan))

    @property
    def weights(self) -> Float[Tensor, " layers"]:
        """λ of every layer."""
        return self.log_weights.exp()

    @torch.no_grad()
    def update(self, errors: Float[Tensor, " layers"]) -> None:
        """Take the errors of a step into account; call it after the optimizer step.

        Ranks that train together use the mean of theirs.

        Raises:
            ValueError: If there is not one error per layer.
        """
        if errors.shape != self.average.shape:
            raise ValueError(
                f"expected errors of shape {tuple(self.average.shape)}, got {tuple(errors.shape)}"
            )
        errors = mean_over_ranks(errors.to(self.average))
        mixed = self.memory * self.average + (1 - self.memory) * errors
        average = torch.where(self.average.isnan(), errors, mixed)
        self.average.copy_(torch.where(errors.isfinite(), average, self.average))
        constraint = (self.average / self.tolerance - 1).nan_to_num().clamp(-1, 1)
        self.log_weights.add_(self.rate * constraint).clamp_(-_LARGEST, _LARGEST)
