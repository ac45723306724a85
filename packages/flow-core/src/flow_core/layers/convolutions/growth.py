"""How much an inverse convolution can grow, and taps for which it cannot."""

from typing import NamedTuple

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


class Taps(NamedTuple):
    """What `flow_kernels.padded_conv2d` takes.

    Attributes:
        weight: The kernels of all groups.
        log_diagonal: Logarithms of the diagonal D of the last tap, or None for ones.
    """

    weight: Float[Tensor, "channels group_channels height width"]
    log_diagonal: Float[Tensor, " channels"] | None


def bounded_taps(taps: Taps, bound: float) -> Taps:
    """Taps scaled down, channel by channel, where their sum of magnitudes over D exceeds `bound`.

    The last tap below its diagonal is scaled with the others; the diagonal is kept.
    """
    per_own = None if taps.log_diagonal is None else (-taps.log_diagonal).exp()
    factor = bound / _row_sums(taps.weight, per_own).clamp(min=bound)
    return Taps(taps.weight * factor.view(-1, 1, 1, 1), taps.log_diagonal)


@torch.no_grad()
def growth_bound(taps: Taps) -> float:
    """‖D⁻¹‖_∞/(1 − ρ) ≥ ‖T⁻¹‖_∞ with ρ the largest row sum; infinite where ρ ≥ 1.

    From z = D⁻¹x − (terms of z before), |z| ≤ ‖D⁻¹‖_∞·‖x‖_∞ + ρ·‖z‖_∞. In float64 from the values
    that are computed with, rounded up by more than the error of the sums.
    """
    own = taps.log_diagonal
    per_own = None if own is None else in_float64(own.exp()).reciprocal()
    rho = float(_row_sums(in_float64(taps.weight), per_own).max()) * (1 + 1e-12)
    largest = 1.0 if per_own is None else float(per_own.max())
    return largest / (1 - rho) * (1 + 1e-12) if rho < 1 else float("inf")


def _row_sums(
    weight: Float[Tensor, "channels group_channels height width"],
    per_own: Float[Tensor, " channels"] | None,
) -> Float[Tensor, " channels"]:
    """Of each channel, the magnitudes of what it takes from values before it, over its own D."""
    size, to_last_tap = weight.shape[1], (weight.shape[3] - 1, 0, weight.shape[2] - 1, 0)
    unused = torch.ones(size, size, dtype=weight.dtype, device=weight.device).triu()
    used = 1 - pad(unused[..., None, None], to_last_tap)
    by_group = weight.view(-1, size, *weight.shape[1:]) * used
    sums = by_group.abs().flatten(2).sum(2).flatten()
    return sums if per_own is None else sums * per_own
