"""Batches of a data set in an order that can be recomputed from the step number alone.

There is no loader state to save: a run that resumes at step s asks for step s.
"""

from collections.abc import Iterator
from functools import lru_cache

from jaxtyping import Int, UInt8
from torch import Tensor

from flow_data.images.imageset import ImageSet
from flow_data.order import permutation

Indices = Int[Tensor, " batch"]
Images = UInt8[Tensor, "batch channels height width"]


def batches_per_epoch(count: int, batch_size: int, *, drop_last: bool = True) -> int:
    """Number of batches in one pass over `count` samples.

    Raises:
        ValueError: The batch size is below 1, or a pass would have no batch.
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch size >= 1, got {batch_size}")
    number = count // batch_size if drop_last else -(-count // batch_size)
    if number < 1:
        raise ValueError(
            f"expected at least one batch in a pass, got {count} samples and batch size "
            f"{batch_size}; lower the batch size"
        )
    return number


def batch_indices(
    count: int, batch_size: int, step: int, *, seed: int, drop_last: bool = True
) -> Indices:
    """The samples of one training step, from the step number alone.

    Every epoch visits the samples in a new random order; steps count on across epochs.

    Args:
        count: Number of samples.
        batch_size: Samples in a batch.
        step: Step number, from 0.
        seed: Seed of the order.
        drop_last: Leave out the last, smaller batch of an epoch.

    Returns:
        int64 indices on the CPU.

    Raises:
        ValueError: The step is negative, or as in `batches_per_epoch`.
    """
    epoch, position = _locate(count, batch_size, step, drop_last)
    batch = _order(count, seed, epoch)[position * batch_size : (position + 1) * batch_size]
    return batch.clone()  # who writes to it must not change the epoch


def batches(
    images: ImageSet, batch_size: int, *, seed: int, start: int = 0, drop_last: bool = True
) -> Iterator[Images]:
    """Endless batches of integer images for training, from step `start` on.

    Batch s holds the images at `batch_indices(len(images), batch_size, s, ...)`.

    Raises:
        ValueError: As in `batch_indices`, at the call.
    """
    _locate(len(images), batch_size, start, drop_last)
    return _endless(images, batch_size, seed, start, drop_last)


def in_order(images: ImageSet, batch_size: int) -> Iterator[Images]:
    """All images once, in stored order, for evaluation; the last batch may be smaller.

    Raises:
        ValueError: The batch size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch size >= 1, got {batch_size}")
    return (images.take(slice(k, k + batch_size)) for k in range(0, len(images), batch_size))


# Sorting a large set takes far longer than a batch: once an epoch, and two for what looks ahead.
@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> Int[Tensor, " count"]:
    return permutation(count, seed=seed, stream=epoch)


def _locate(count: int, batch_size: int, step: int, drop_last: bool) -> tuple[int, int]:
    if step < 0:
        raise ValueError(f"expected a step >= 0, got {step}")
    return divmod(step, batches_per_epoch(count, batch_size, drop_last=drop_last))


def _endless(
    images: ImageSet, batch_size: int, seed: int, start: int, drop_last: bool
) -> Iterator[Images]:
    count = len(images)
    number = batches_per_epoch(count, batch_size, drop_last=drop_last)
    epoch, position = divmod(start, number)
    while True:
        order = permutation(count, seed=seed, stream=epoch).to(images.source.device)
        for k in range(position, number):
            yield images.take(order[k * batch_size : (k + 1) * batch_size])
        epoch, position = epoch + 1, 0
