"""How much an inverse convolution can grow, and taps for which it cannot."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


class Taps(NamedTuple):
    """What `flow_kernels.padded_conv2d` takes.

    Attributes:
        weight: The kernels of all groups.
        log_diagonal: Logarithms of the diagonal of the last tap A, or None for ones.
    """

    weight: Float[Tensor, "channels group_channels height width"]
    log_diagonal: Float[Tensor, " channels"] | None


def bounded_taps(taps: Taps, bound: float) -> Taps:
    """Taps scaled down, group by group, where Σ‖A⁻¹K_ij‖_∞ over all but the last exceeds `bound`.

    The last tap is kept.
    """
    weight, log_diagonal = taps
    factor = bound / _row_sums(taps).clamp(min=bound)
    height, width = weight.shape[2:]
    ones = weight.new_ones(len(factor), 1, 1, 1, 1)
    # The last tap takes a factor of one.
    others = pad(torch.zeros_like(ones), (width - 1, 0, height - 1, 0), value=1.0)
    scale = ones + others * (factor.view(-1, 1, 1, 1, 1) - 1)
    by_group = weight.view(len(factor), -1, *weight.shape[1:])
    return Taps((by_group * scale).view(weight.shape), log_diagonal)


@torch.no_grad()
def growth_bound(taps: Taps) -> float:
    """max over groups of ‖A⁻¹‖_∞/(1 − ρ), at least ‖T⁻¹‖_∞; infinite where ρ ≥ 1.

    Computed in float64 and rounded up by more than its error.
    """
    log_diagonal = taps.log_diagonal
    wide = Taps(taps.weight.double(), None if log_diagonal is None else log_diagonal.double())
    rho = _row_sums(wide) * (1 + 1e-12)
    unit = torch.eye(wide.weight.shape[1], dtype=torch.float64, device=wide.weight.device)
    inverse = torch.linalg.solve_triangular(_last_taps(wide), unit, upper=False)
    norms = inverse.abs().sum(2).amax(1) * (1 + 1e-12)
    bounds = torch.where(rho < 1, norms / (1 - rho), torch.inf)
    return float(bounds.max())


def _row_sums(taps: Taps) -> Float[Tensor, " groups"]:
    """Σ‖A⁻¹K_ij‖_∞ over all taps but the last, an upper bound of the step of the recursion."""
    weight = taps.weight
    size = weight.shape[1]
    # (group, out, in, tap) without the last tap
    others = weight.view(-1, size, size, weight[0, 0].numel())[..., :-1]
    solved: Tensor = torch.linalg.solve_triangular(_last_taps(taps), others.flatten(2), upper=False)
    return solved.view(others.shape).abs().sum(2).amax(1).sum(1)


def _last_taps(taps: Taps) -> Float[Tensor, "groups size size"]:
    """A of every group."""
    size = taps.weight.shape[1]
    last = taps.weight[:, :, -1, -1].view(-1, size, size).tril(-1)
    log_diagonal = taps.log_diagonal
    if log_diagonal is None:
        return last + torch.eye(size, dtype=last.dtype, device=last.device)
    return last + torch.diag_embed(log_diagonal.exp().view(-1, size))
