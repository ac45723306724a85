"""Random numbers that belong to a seed and to a sample, whatever other samples there are."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from flow_core.events import per_sample_sum

_PRIME = 1_000_003


def uniform(like: Float[Tensor, " batch *shape"], seed: int) -> Float[Tensor, " batch *shape"]:
    """In [−1, 1)."""
    return 2 * _drawn(torch.rand, like, seed) - 1


def directions(shape: Sequence[int], like: Tensor, seed: int) -> Float[Tensor, " batch *shape"]:
    """Unit vectors, uniform on the sphere of a sample of that shape."""
    normal = _drawn(torch.randn, like.new_empty(shape), seed)
    lengths = per_sample_sum(normal.square()).sqrt()
    return normal / lengths.reshape(-1, *(1,) * (normal.ndim - 1))


def _drawn(draw: Callable[..., Tensor], like: Tensor, seed: int) -> Tensor:
    # On the CPU, so that devices have the same numbers.
    rows = [
        draw(like.shape[1:], generator=Generator().manual_seed(seed * _PRIME + i), dtype=like.dtype)
        for i in range(len(like))
    ]
    return torch.stack(rows).to(like.device)
