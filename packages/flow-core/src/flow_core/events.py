"""Reductions over the values of each sample, for samples of any shape and any number of them.

`flatten(1)` refuses samples that are single numbers, and a reshape to −1 refuses empty batches.
"""

import math

from jaxtyping import Bool, Float
from torch import Tensor


def per_sample_sum(values: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch"]:
    """The sum of the values of every sample."""
    return _rows(values).sum(1)


def per_sample_all(conditions: Bool[Tensor, " batch *event"]) -> Bool[Tensor, " batch"]:
    """Whether a condition holds for all values of a sample."""
    return _rows(conditions).all(1)


def _rows(values: Tensor) -> Tensor:
    if values.ndim == 2:
        return values
    return values.reshape(values.shape[0], math.prod(values.shape[1:]))
