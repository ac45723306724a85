"""Sets of images: read, put together, refused and augmented."""

from pathlib import Path

import numpy as np
import pytest
import torch
from flow_apps.config.images import ImagesConfig
from flow_apps.errors import ConfigError
from flow_apps.parts.image_sets import augmented, images_as_read, load_images, resolved
from flow_data import DataError


def npz(folder: Path, name: str, count: int, side: int = 32) -> None:
    data = np.arange(count * 3 * side * side, dtype=np.int64) % 256
    labels = np.zeros(count, dtype=np.int64)
    np.savez(folder / name, data=data.reshape(count, -1).astype(np.uint8), labels=labels)


def test_npz_files_are_put_together_and_reduced_to_bits(tmp_path: Path) -> None:
    npz(tmp_path, "train_1.npz", 4)
    npz(tmp_path, "train_2.npz", 3)
    npz(tmp_path, "val.npz", 2)
    config = ImagesConfig(data="npz", data_root=str(tmp_path), held_out=2, n_bits=5)
    parts = load_images(config)
    sizes = [len(part) for part in (parts.train, parts.validation, parts.test)]
    assert sizes == [5, 2, 2]
    assert parts.train.levels == 32
    assert parts.train.name.endswith("-5bit")


@pytest.mark.parametrize("other", ["train_2.npz", "val.npz"])
def test_images_of_different_sizes_are_refused(tmp_path: Path, other: str) -> None:
    npz(tmp_path, "train_1.npz", 4)
    npz(tmp_path, "val.npz", 2)
    npz(tmp_path, other, 2, side=64)
    with pytest.raises(DataError, match="images of one shape"):
        load_images(ImagesConfig(data="npz", data_root=str(tmp_path), held_out=2))


def test_missing_npz_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\*.npz"):
        load_images(ImagesConfig(data="npz", data_root=str(tmp_path)))


def test_augmentation_follows_from_the_step() -> None:
    images = torch.arange(2 * 28 * 28, dtype=torch.uint8).reshape(2, 1, 28, 28)
    one, other = (augmented(images, "mnist", torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(augmented(images, "none", torch.Generator()), images)


def test_more_held_out_than_there_are_says_what_was_asked_and_what_would_do(
    tmp_path: Path,
) -> None:
    npz(tmp_path, "train.npz", 40)
    npz(tmp_path, "val.npz", 2)
    with pytest.raises(ConfigError, match=r"the 40 training images, got 5000; .*held_out=4"):
        load_images(ImagesConfig(data="npz", data_root=str(tmp_path)))


def test_images_of_another_shape_than_the_model_was_made_for_are_refused(tmp_path: Path) -> None:
    npz(tmp_path, "train.npz", 4)
    npz(tmp_path, "val.npz", 2)
    config = ImagesConfig(data="npz", data_root=str(tmp_path), held_out=2, shape=(3, 16, 16))
    with pytest.raises(DataError, match=r"\(3, 16, 16\), as config\.json has it.*--data-root"):
        load_images(config)
    known = resolved(ImagesConfig(data="npz", data_root=str(tmp_path), held_out=2))
    assert known.image_shape == (3, 32, 32)


def test_images_are_read_once_before_and_after_their_shape_is_known(tmp_path: Path) -> None:
    npz(tmp_path, "train.npz", 4)
    npz(tmp_path, "val.npz", 2)
    images_as_read.cache_clear()
    config = ImagesConfig(data="npz", data_root=str(tmp_path), held_out=2)
    known = resolved(config)
    assert load_images(known) is load_images(config)
    assert images_as_read.cache_info().misses == 1
