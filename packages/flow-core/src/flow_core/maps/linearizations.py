"""Linearizations that do not depend on the kind of net."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

_CPU_SAMPLES = 1024


@dataclass(frozen=True)
class FirstOrderPart:
    """The part of J that crosses at most one nonlinearity.

    Attributes:
        jvp: J₁ t for tangents with leading probe dimensions.
        exact_trace: tr J₁ per sample.
    """

    jvp: Callable[[Tensor], Tensor]
    exact_trace: Callable[[], Tensor]

    @property
    def trace(self) -> Float[Tensor, " batch"]:
        """Tr J₁ per sample."""
        return self.exact_trace()


def jacobian_by_products(
    jvp: Callable[[Tensor], Tensor], point: Float[Tensor, " batch *shape"]
) -> Float[Tensor, "batch dim dim"]:
    """J as a matrix per sample from products with all unit vectors, many folded into one pass.

    On a CPU a pass is kept small enough for its numbers to stay in the caches.
    """
    dim, count = prod(point.shape[1:]), len(point)
    eye = torch.eye(dim, dtype=point.dtype, device=point.device)
    units = eye.view(dim, 1, *point.shape[1:]).expand(dim, *point.shape)
    together = _CPU_SAMPLES // max(1, count) if point.device.type == "cpu" else dim
    columns = torch.cat([jvp(some) for some in torch.split(units, max(1, together))])
    return columns.reshape(dim, count, dim).permute(1, 2, 0)
