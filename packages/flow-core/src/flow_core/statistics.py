"""Channel statistics of a batch that is spread over ranks."""

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor


def channel_moments(
    x: Float[Tensor, "batch channels *spatial"],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Mean and unbiased variance per channel over the batch, the map and all ranks.

    Two passes: the mean of all values first, then the squared deviations from it, so the result is
    that of one process holding all batches, also when ranks hold different numbers of samples.

    Raises:
        ValueError: If a channel has fewer than two values or the moments are not finite.
    """
    rows = x.detach().transpose(0, 1).flatten(1)
    count = rows.new_tensor([rows.shape[1]])
    totals = _sum_over_ranks(torch.cat([count, rows.sum(1)]))
    mean = totals[1:] / totals[0]
    squares = _sum_over_ranks((rows - mean[:, None]).square().sum(1))
    variance = squares / (totals[0] - 1)
    if totals[0] < 2 or not bool(torch.isfinite(variance).all()):
        raise ValueError(
            "expected at least two finite values per channel to take statistics from, got "
            f"{int(totals[0])} values per channel with variances {variance.tolist()[:8]}; "
            "initialize on a larger batch of finite data"
        )
    return mean, variance


def true_on_all_ranks(condition: Bool[Tensor, "*shape"]) -> bool:
    """Whether a condition holds for all values of all ranks, so that all raise or none does."""
    failures = (~condition).sum(dtype=torch.float32)
    return not bool(_sum_over_ranks(failures))


def mean_over_ranks(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean over all ranks of what each of them has."""
    weighed = torch.cat([values.detach().flatten(), values.new_ones(1)])
    totals = _sum_over_ranks(weighed)
    return (totals[:-1] / totals[-1]).view(values.shape)


def _sum_over_ranks(values: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values
