"""Operations that treat every sample of a batch on its own."""

import math
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from flow_solvers.precision import has_float64

# Up to here a sample's whole Jacobian costs little more than one product with it.
SMALL_DIMENSION = 4
# Re-indexing a map costs several small operations: it pays only where an evaluation is not small.
_COMPACT_FROM_NUMEL = 1024
# Up to here copying tensors together costs less than another operation.
_TOGETHER_UP_TO_NUMEL = 16384
# For matrices below this size torch has no fast product on a CPU.
_SLOW_PRODUCT_BELOW_NUMEL = 400
# Sums of squares in float64 are accurate from here on.
_LEAST_NORM = 1e-140
# Norms of samples whose residuals can be squared from the first to the last one.
_SQUARES_FIT = {torch.float32: (1e-9, 1e14), torch.float64: (1e-120, 1e140)}


def flat(tensor: Shaped[Tensor, " batch *shape"]) -> Shaped[Tensor, " batch dim"]:
    """One row per sample; also for scalar samples and empty batches."""
    if tensor.dim() == 2:
        return tensor
    return tensor.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def norm(tensor: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
    """Euclidean norm of every sample, safe from over- and underflow."""
    rows = flat(tensor)
    if tensor.dtype == torch.float32 or _by_columns(rows):
        return plain_norm(rows)
    return _scaled_norm(rows)


def plain_norm(rows: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch"]:
    """Euclidean norm of every sample, where squares of float64 numbers fit float64."""
    return _wide_norm(rows).to(rows.dtype)


def lengths(*tensors: Float[Tensor, " batch *shape"]) -> Float[np.ndarray, " tensors batch"]:
    """Euclidean norms of every sample of several tensors, on the host.

    Small tensors are measured together: each operation costs more than the work that it does.
    """
    return _measured(_wide_norm, [flat(tensor) for tensor in tensors])


def safe_lengths(*tensors: Float[Tensor, " batch *shape"]) -> Float[np.ndarray, " tensors batch"]:
    """`lengths`, safe from over- and underflow.

    Squares that do not fit float64 show in the norms, and only then is measured again.
    """
    rows = [flat(tensor) for tensor in tensors]
    found = _measured(_wide_norm, rows)
    if rows[0].dtype == torch.float32 or _by_columns(rows[0]):
        return found
    fit = (found > _LEAST_NORM) & (found < math.inf)
    return found if np.count_nonzero(fit) == fit.size else _measured(_scaled_norm, rows)


def _measured(
    measure: Callable[[Tensor], Tensor], rows: Sequence[Tensor]
) -> Float[np.ndarray, " tensors batch"]:
    if rows[0].numel() > _TOGETHER_UP_TO_NUMEL:
        return torch.stack([measure(row) for row in rows]).numpy(force=True)
    return measure(torch.cat([*rows])).reshape(len(rows), len(rows[0])).numpy(force=True)


def _by_columns(rows: Float[Tensor, " batch dim"]) -> bool:
    """A reduction over a few neighbours costs ten times as much as passes over columns."""
    return 0 < rows.shape[1] <= SMALL_DIMENSION


def _wide_norm(rows: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch"]:
    if _by_columns(rows):
        first, *others = rows.unbind(1)
        return reduce(torch.hypot, others, first) if others else first.abs()
    if not has_float64(rows.device):
        return _scaled_norm(rows)
    # Squares of float32 numbers neither overflow nor vanish in float64.
    wide: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return wide


def _scaled_norm(rows: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch"]:
    """The norm by way of the largest number, for numbers whose squares do not fit the dtype."""
    if not rows.shape[1]:
        return rows.sum(1)
    largest: Tensor = torch.linalg.vector_norm(rows, math.inf, dim=1, keepdim=True)
    # An infinite one has to stay infinite, and a zero to stay zero.
    unit = largest.clamp(torch.finfo(rows.dtype).tiny, torch.finfo(rows.dtype).max)
    scaled: Tensor = torch.linalg.vector_norm(rows / unit, dim=1)
    return scaled * unit.squeeze(1)


def exponents(
    sizes: Float[np.ndarray, " batch"], dtype: torch.dtype
) -> Int[np.ndarray, " batch"] | None:
    """Powers of two that bring samples of such norms to one; 0 where squares fit the dtype anyway.

    None where they do for every sample.
    """
    least, largest = _SQUARES_FIT[dtype]
    extreme = ((sizes < least) & (sizes > 0)) | ((sizes > largest) & (sizes < math.inf))
    if not np.count_nonzero(extreme):
        return None
    limit = math.frexp(torch.finfo(dtype).max)[1] - 2
    return np.where(extreme, -np.frexp(sizes)[1], 0).clip(-limit, limit)


def per_sample(
    numbers: Shaped[Tensor, " batch"], like: Shaped[Tensor, " batch *shape"]
) -> Shaped[Tensor, " batch *ones"]:
    """A number per sample, shaped to broadcast against `like`."""
    return numbers.reshape(numbers.shape + (1,) * (like.dim() - 1))


def worth_compacting(unfinished: int, like: Shaped[Tensor, " batch *shape"]) -> bool:
    """Whether the unfinished samples, at most half of a large batch, should go on alone."""
    return 2 * unfinished <= like.shape[0] and like.numel() >= _COMPACT_FROM_NUMEL


def dot(a: Float[Tensor, " batch dim"], b: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch"]:
    """Inner product of every sample."""
    result: Tensor = torch.linalg.vecdot(a, b)
    return result


def products(
    rows: Float[Tensor, " batch count dim"], vector: Float[Tensor, " batch dim"]
) -> Float[Tensor, " batch count"]:
    """Inner products of a vector with several rows.

    The vector stands on the left: a matrix times a column takes ten times as long on a CPU.
    """
    return torch.bmm(vector.unsqueeze(1), rows.mT).squeeze(1)


def add_rows(
    vector: Float[Tensor, " batch dim"],
    weights: Float[Tensor, " batch count"],
    rows: Float[Tensor, " batch count dim"],
    scale: float = 1.0,
) -> Float[Tensor, " batch dim"]:
    """The vector plus `scale` times a combination of rows."""
    if rows.shape[1] * rows.shape[2] < _SLOW_PRODUCT_BELOW_NUMEL:
        return vector.add((weights.unsqueeze(2) * rows).sum(1), alpha=scale)
    added = torch.baddbmm(vector.unsqueeze(1), weights.unsqueeze(1), rows, alpha=scale)
    return added.squeeze(1)


def finite_or_zero(tensor: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
    """Rows with a number that is not finite become zero as a whole."""
    return torch.where(tensor.isfinite().all(dim=1, keepdim=True), tensor, 0)
