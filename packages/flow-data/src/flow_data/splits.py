"""Deterministic division of a data set into train, validation and test parts."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from flow_data.images.imageset import ImageSet
from flow_data.order import permutation

# Far from the epoch numbers, so that an epoch never has the order of a split with the same seed.
_SPLIT_STREAM = 2**63


@dataclass(frozen=True, eq=False)
class Splits:
    """Disjoint indices that together cover the data, each part in ascending order.

    Attributes:
        train: Indices of the training part, shape `(train,)`.
        validation: Indices for choosing models, shape `(validation,)`.
        test: Indices for the reported figure, shape `(test,)`.
    """

    train: Int[Tensor, " train"]
    validation: Int[Tensor, " validation"]
    test: Int[Tensor, " test"]


@dataclass(frozen=True, eq=False)
class ImageSplits:
    """The three parts of a set of images."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


def splits(count: int, *, validation: int | float, test: int | float, seed: int) -> Splits:
    """Divide `range(count)` at random into three parts.

    The result depends on the arguments alone. The test part depends only on its own size and the
    seed: changing the size of the validation part never moves a test sample.

    Args:
        count: Number of samples.
        validation: Size of the validation part: a number of samples if an `int`, else a fraction
            of `count`.
        test: Size of the test part, likewise.
        seed: Seed of the division.

    Raises:
        ValueError: A size is negative, a fraction is outside [0, 1), or nothing is left to train.
    """
    validation_size = _part_size(count, validation, "validation")
    test_size = _part_size(count, test, "test")
    rest = count - validation_size - test_size
    if rest < 1:
        raise ValueError(
            f"expected at least one training sample, got {count} samples of which "
            f"{validation_size} for validation and {test_size} for test; ask for smaller parts"
        )
    order = permutation(count, seed=seed, stream=_SPLIT_STREAM)
    held_out, train = order[: test_size + validation_size], order[test_size + validation_size :]
    return Splits(
        train=train.sort().values,
        validation=held_out[test_size:].sort().values,
        test=held_out[:test_size].sort().values,
    )


def split_images(
    images: ImageSet, *, validation: int | float, test: int | float, seed: int
) -> ImageSplits:
    """Divide a set of images at random into three parts; arguments and errors as in `splits`.

    The parts share the memory of the whole: nothing is copied.
    """
    parts = splits(len(images), validation=validation, test=test, seed=seed)
    return ImageSplits(
        train=images.select(parts.train),
        validation=images.select(parts.validation),
        test=images.select(parts.test),
    )


def digits_splits(digits: ImageSet) -> ImageSplits:
    """The fixed division of the digits: 1257 to train, 180 to validate, 360 to test.

    The digits are few writers' work and the division does not separate writers.
    """
    return split_images(digits, validation=180, test=360, seed=0)


def _part_size(count: int, size: int | float, part: str) -> int:
    if isinstance(size, int):
        if size < 0:
            raise ValueError(f"expected a {part} part of >= 0 samples, got {size}")
        return size
    if not 0.0 <= size < 1.0:
        raise ValueError(f"expected a {part} fraction in [0, 1), got {size}; or give an int size")
    return round(size * count)
