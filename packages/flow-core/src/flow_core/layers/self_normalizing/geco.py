"""Weights of reconstruction errors that keep them at a tolerance."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

_LARGEST_STEP = 10.0


@final
class Geco(nn.Module):
    """One weight λ per layer that grows while its reconstruction error is above a tolerance.

    λ ← λ·exp(η·(ē − τ)) with ē an exponential moving average of the error. Source: Rezende & Viola
    2018 (Taming VAEs), Algorithm 1; the released code of Self Normalizing Flows leaves τ out, so
    that its weights only grow.

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
        if layers < 1 or min(tolerance, rate, initial) <= 0 or not 0 <= memory < 1:
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
        """Take the errors of a step into account; call it after the optimizer step."""
        errors = errors.detach().to(self.average)
        mixed = self.memory * self.average + (1 - self.memory) * errors
        self.average.copy_(torch.where(self.average.isnan(), errors, mixed))
        step = self.rate * (self.average - self.tolerance)
        self.log_weights.add_(step.clamp(max=_LARGEST_STEP))
