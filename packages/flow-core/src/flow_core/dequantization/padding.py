"""Channels of noise beside the images, which make flows wider than their data."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from flow_solvers import require_integer
from jaxtyping import Float
from torch import Tensor

from flow_core.base import inside_unit_interval
from flow_core.events import per_sample_sum


@dataclass(frozen=True)
class Padding(ABC):
    """Channels e of known density q in [0, 1] that a flow models together with y.

    log p(y) ≥ E_q[log p(y, e) − log q(e)]. Source: Huang et al. 2020 (Augmented Normalizing Flows),
    eq. 3; released code of Residual Flows.

    Attributes:
        channels: How many.
    """

    channels: int

    def __post_init__(self) -> None:
        require_integer("channels", self.channels, 1)

    @abstractmethod
    def draw(
        self, noise: Float[Tensor, "batch channels *pixels"], levels: int
    ) -> tuple[Float[Tensor, "batch channels *pixels"], Float[Tensor, " batch"]]:
        """Make e of uniform numbers in [0, 1), with log q(e) in nats per sample.

        Args:
            noise: One number for each of e.
            levels: Of the integers that y is made of.
        """


@final
@dataclass(frozen=True)
class UniformPadding(Padding):
    """e = u/levels with u ~ U[0, 1): like channels of the integer 0."""

    def draw(self, noise: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """The uniform numbers in the first bin."""
        log_prob = noise[0].numel() * math.log(levels) if len(noise) else 0.0
        return noise / levels, noise.new_full((len(noise),), log_prob)


@final
@dataclass(frozen=True)
class NormalPadding(Padding):
    """e ~ N(1/2, 1/8²), drawn within [0, 1], that is within four standard deviations."""

    def draw(self, noise: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """Quantiles of the truncated distribution."""
        del levels
        reach, width = 4.0, 1 / 8
        low, mass = math.erfc(reach / math.sqrt(2)) / 2, math.erf(reach / math.sqrt(2))
        z: Tensor = torch.special.ndtri(inside_unit_interval(low + mass * noise))
        log_prob = -0.5 * z.square() - math.log(math.sqrt(2 * math.pi) * width * mass)
        return (0.5 + width * z).clamp(0, 1), per_sample_sum(log_prob)
