"""Couplings of images whose cells take turns as on a checkerboard."""

from typing import Literal, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.domain import Domain, LocalBounds
from flow_core.events import per_sample_sum
from flow_core.layers.couplings.conditioners import convolutional_conditioner
from flow_core.layers.couplings.scales import ScaleFunction, moves_on, scale_function
from flow_core.layers.shear import joined
from flow_core.lipschitz.plain import halves
from flow_core.passes import Direction, Pass


@final
class CheckerboardCoupling(Bijection):
    """x ↦ m·x + (1 − m)·(x + t)·s with t and s a function of m·x; m is a checkerboard.

    log|det ∂y/∂x| = Σ (1 − m)·log s. Source: Dinh et al. 2017, §3.4.

    Args:
        conditioner: Maps images of c channels, zero where cells move, to 2·c channels: t, then what
            s is made of.
        channels: c.
        still: Parity of row + column of the cells that stay.
        scale: Makes s of a number; that of Self Normalizing Flows unless given.
    """

    def __init__(
        self,
        conditioner: nn.Module,
        channels: int,
        still: Literal[0, 1],
        scale: ScaleFunction | None = None,
    ) -> None:
        super().__init__((channels, None, None))
        self.conditioner = conditioner
        self.still = still
        self.scale = scale_function(scale)

    @classmethod
    def convolutional(
        cls, channels: int, width: int, still: Literal[0, 1], scale: ScaleFunction | None = None
    ) -> "CheckerboardCoupling":
        """With Glow's conditioner of that width; by default the identity at first."""
        conditioner = convolutional_conditioner(channels, 2 * channels, width)
        return cls(conditioner, channels, still, scale)

    def extra_repr(self) -> str:
        """Scale function and cells shown in the representation of a model."""
        return f"still={self.still}, scale={self.scale}"

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """As of couplings of channels: cells that stay and cells that move are the two parts."""
        moves = moves_on(halves(self.conditioner, domain.with_zero()), domain, self.scale)
        image = joined(domain, moves.image(domain, direction), domain)
        return LocalBounds(moves.bounds(domain, direction), image)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._moves(x)
        return (x + shift) * log_scale.exp(), how.log_det(x, lambda: per_sample_sum(log_scale))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._moves(y)
        return y / log_scale.exp() - shift, how.log_det(y, lambda: -per_sample_sum(log_scale))

    def _moves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """t and log s, zero for the cells that stay, which x and y have in common."""
        moving = self._moving(x)
        raw = cast(Tensor, self.conditioner(x.masked_fill(moving, 0.0)))
        expected = (len(x), 2 * x.shape[1], *x.shape[2:])
        if raw.shape != expected:
            raise ValueError(
                f"CheckerboardCoupling: expected a conditioner that gives {expected} for images of "
                f"shape {tuple(x.shape)}, got {tuple(raw.shape)}"
            )
        shift, raw_scale = raw.chunk(2, dim=1)
        log_scale = self.scale.log_scale(raw_scale)
        return shift.masked_fill(~moving, 0.0), log_scale.masked_fill(~moving, 0.0)

    def _moving(self, x: Float[Tensor, "batch c height width"]) -> Tensor:
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        return (rows[:, None] + columns) % 2 != self.still
