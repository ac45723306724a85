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


def in_double(taps: Taps) -> Taps:
    """The same in float64."""
    own = taps.log_diagonal
    return Taps(in_float64(taps.weight), None if own is None else in_float64(own))


@torch.no_grad()
def norm_bounds(taps: Taps) -> tuple[float, float]:
    """Bounds of ‖T‖₂ and ‖T⁻¹‖₂ on images of any size, √(‖·‖₁‖·‖_∞) each; infinite if unknown.

    ‖T⁻¹‖₁ ≤ ‖D⁻¹‖/(1 − ρ) with ρ the largest sum of magnitudes of KD⁻¹ over what a value gives.
    """
    weight, log_own = in_double(taps)
    own = weight.new_ones(len(weight)) if log_own is None else log_own.exp()
    rows, columns = (_used(weight).abs().flatten(3).sum((dim, 3)).flatten() for dim in (2, 1))
    norm = float(((own + rows).max() * (own + columns).max()).sqrt()) * (1 + 1e-12)
    given = float((columns / own).max()) * (1 + 1e-12)
    if given >= 1:
        return norm, float("inf")
    largest = float(own.reciprocal().max()) / (1 - given) * (1 + 1e-12)
    return norm, (largest * growth_bound(taps)) ** 0.5


def _row_sums(
    weight: Float[Tensor, "channels group_channels height width"],
    per_own: Float[Tensor, " channels"] | None,
) -> Float[Tensor, " channels"]:
    """Of each channel, the magnitudes of what it takes from values before it, over its own D."""
    by_group = _used(weight)
    sums = by_group.abs().flatten(2).sum(2).flatten()
    return sums if per_own is None else sums * per_own


def _used(
    weight: Float[Tensor, "channels group_channels height width"],
) -> Float[Tensor, "groups outputs inputs height width"]:
    """The taps off the diagonal that are used, by groups."""
    size, to_last_tap = weight.shape[1], (weight.shape[3] - 1, 0, weight.shape[2] - 1, 0)
    unused = torch.ones(size, size, dtype=weight.dtype, device=weight.device).triu()
    used = 1 - pad(unused[..., None, None], to_last_tap)
    return weight.view(-1, size, *weight.shape[1:]) * used
