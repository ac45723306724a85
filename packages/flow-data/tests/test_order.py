"""Permutations, splits and batches: fixed for ever, balanced, and free of global state."""

import math
from importlib import import_module
from itertools import islice

import numpy as np
import pytest
import torch
from flow_data import (
    ImageSet,
    batch_indices,
    batches,
    batches_per_epoch,
    digits_splits,
    in_order,
    load_digits,
    permutation,
    split_images,
    splits,
)
from flow_data.order import splitmix64
from torch import Tensor


def numbered(count: int) -> ImageSet:
    """Images whose single pixel tells their index."""
    values = torch.arange(count, dtype=torch.uint8)
    return ImageSet(values.reshape(-1, 1, 1, 1), values.long(), 256, "numbered")


def test_splitmix64_gives_the_published_sequence() -> None:
    """First outputs for state 1234567 of the authors' C code."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(1234567, np.arange(5, dtype=np.uint64)).tolist() == expected


def test_a_permutation_never_changes() -> None:
    """Golden values: a change would silently move every test set."""
    assert permutation(10, seed=0).tolist() == [5, 7, 8, 2, 9, 0, 3, 1, 6, 4]
    assert permutation(10, seed=-3, stream=7).tolist() == [7, 8, 1, 0, 4, 6, 3, 2, 5, 9]


def test_a_permutation_has_every_element_once() -> None:
    for count in (0, 1, 2, 1000):
        assert permutation(count, seed=5).sort().values.tolist() == list(range(count))


def test_streams_and_seeds_differ() -> None:
    orders = [permutation(50, seed=s, stream=k) for s in (0, 1) for k in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_permutations_are_uniform() -> None:
    """Chi-square over the 24 permutations of four elements: false-positive rate 1e-6."""
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(2400):
        order = tuple(permutation(4, seed=seed).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    # The 1 - 1e-6 quantile of chi-square with 23 degrees of freedom.
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 74.9


def test_splits_cover_the_data_without_overlap() -> None:
    parts = splits(100, validation=0.1, test=25, seed=3)
    sizes = [len(parts.train), len(parts.validation), len(parts.test)]
    assert sizes == [65, 10, 25]
    together = torch.cat([parts.train, parts.validation, parts.test])
    assert together.sort().values.tolist() == list(range(100))


def test_the_test_part_does_not_move_with_the_validation_part() -> None:
    first = splits(200, validation=0, test=0.2, seed=1)
    second = splits(200, validation=50, test=0.2, seed=1)
    assert torch.equal(first.test, second.test)
    assert not torch.equal(first.test, splits(200, validation=0, test=0.2, seed=2).test)


def test_splits_ignore_global_randomness() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = splits(64, validation=8, test=8, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first.train, splits(64, validation=8, test=8, seed=0).train)


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        (5, 5, "at least one training sample"),
        (-1, 5, "validation part of >= 0 samples, got -1"),
        (0.2, 1.0, r"test fraction in \[0, 1\), got 1.0"),
        (0.2, math.nan, "test fraction"),
    ],
)
def test_impossible_splits(validation: int | float, test: int | float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        splits(10, validation=validation, test=test, seed=0)


def test_split_images_keeps_images_and_labels_together() -> None:
    parts = split_images(numbered(40), validation=0.25, test=0.25, seed=0)
    for part in (parts.train, parts.validation, parts.test):
        assert part.images.flatten().tolist() == part.labels.tolist()
    assert len(parts.train) == 20


def test_digits_splits_are_fixed() -> None:
    parts = digits_splits(load_digits())
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [1257, 180, 360]
    assert parts.test.labels[:12].tolist() == [2, 5, 7, 1, 2, 5, 9, 5, 3, 2, 1, 3]
    assert int(parts.test.images.sum()) == 111990


def test_every_epoch_visits_every_sample_once() -> None:
    for epoch in range(3):
        steps = range(4 * epoch, 4 * epoch + 4)
        seen = torch.cat([batch_indices(10, 3, s, seed=1, drop_last=False) for s in steps])
        assert seen.sort().values.tolist() == list(range(10))


def test_dropping_the_last_batch_keeps_the_size() -> None:
    assert batches_per_epoch(10, 3) == 3
    assert batches_per_epoch(10, 3, drop_last=False) == 4
    assert all(len(batch_indices(10, 3, step, seed=1)) == 3 for step in range(9))
    assert len(set(torch.cat([batch_indices(10, 3, s, seed=1) for s in range(3)]).tolist())) == 9


def test_epochs_have_different_orders() -> None:
    first, second = (batch_indices(50, 50, step, seed=0) for step in range(2))
    assert not torch.equal(first, second)


def test_an_epoch_is_sorted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_epochs: list[int] = []

    def counted(count: int, *, seed: int, stream: int) -> Tensor:
        sorted_epochs.append(stream)
        return permutation(count, seed=seed, stream=stream)

    # By name `flow_data.batches` is the function.
    monkeypatch.setattr(import_module("flow_data.batches"), "permutation", counted)
    for step in range(15):
        batch_indices(1003, 200, step, seed=12345)
    assert sorted_epochs == [0, 1, 2]


def test_a_batch_that_is_written_to_changes_no_other() -> None:
    expected = batch_indices(10, 5, 0, seed=8).tolist()
    batch_indices(10, 5, 0, seed=8).fill_(-1)
    assert batch_indices(10, 5, 0, seed=8).tolist() == expected
    assert expected == permutation(10, seed=8, stream=0)[:5].tolist()


@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_resume_at_any_step(drop_last: bool) -> None:
    images = numbered(10)
    whole = list(islice(batches(images, 3, seed=4, drop_last=drop_last), 12))
    for start in range(12):
        rest = islice(batches(images, 3, seed=4, start=start, drop_last=drop_last), 12 - start)
        for step, batch in enumerate(rest, start):
            assert torch.equal(batch, whole[step])
            index = batch_indices(10, 3, step, seed=4, drop_last=drop_last)
            assert torch.equal(batch, images.images[index])
            assert batch.dtype == torch.uint8


def test_in_order_gives_every_image_once() -> None:
    parts = list(in_order(numbered(10), 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.cat(parts).flatten().tolist() == list(range(10))
    assert list(in_order(numbered(0), 4)) == []


def test_impossible_batches() -> None:
    with pytest.raises(ValueError, match="batch size >= 1, got 0"):
        batches(numbered(10), 0, seed=0)
    with pytest.raises(ValueError, match="lower the batch size"):
        batches(numbered(10), 11, seed=0)
    with pytest.raises(ValueError, match="step >= 0, got -1"):
        batch_indices(10, 2, -1, seed=0)
    with pytest.raises(ValueError, match="batch size >= 1, got -4"):
        in_order(numbered(10), -4)
