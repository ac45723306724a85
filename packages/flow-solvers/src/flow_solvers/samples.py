"""Operations that treat every sample of a batch on its own."""

import math
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

# Up to here a sample's whole Jacobian costs little more than one product with it.
SMALL_DIMENSION = 4
# Re-indexing a map costs several small operations: it pays only where an evaluation is not small.
_COMPACT_FROM_NUMEL = 1024
# Up to here copying tensors together costs less than another operation.
_TOGETHER_UP_TO_NUMEL = 16384
# For matrices below this size torch has no fast product on a CPU.
_SLOW_PRODUCT_BELOW_NUMEL = 400


def flat(tensor: Shaped[Tensor, " batch *shape"]) -> Shaped[Tensor, " batch dim"]:
    """One row per sample; also for scalar samples and empty batches."""
    if tensor.dim() == 2:
        return tensor
    return tensor.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def norm(tensor: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
    """Euclidean norm of every sample."""
    return _wide_norm(flat(tensor)).to(tensor.dtype)


def lengths(*tensors: Float[Tensor, " batch *shape"]) -> Float[np.ndarray, " tensors batch"]:
    """Euclidean norms of every sample of several tensors, on the host.

    Small tensors are measured together: each operation costs more than the work that it does.
    """
    rows = [flat(tensor) for tensor in tensors]
    if rows[0].numel() > _TOGETHER_UP_TO_NUMEL:
        found = torch.stack([_wide_norm(row) for row in rows])
    else:
        found = _wide_norm(torch.cat(rows)).reshape(len(rows), len(rows[0]))
    return found.numpy(force=True)


def _wide_norm(rows: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch"]:
    if 1 < rows.shape[1] <= SMALL_DIMENSION:
        # A reduction over a few neighbours costs ten times as much as passes over columns.
        return reduce(torch.hypot, rows.unbind(1))
    # Squares of float32 numbers neither overflow nor vanish in float64.
    wide: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return wide


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
