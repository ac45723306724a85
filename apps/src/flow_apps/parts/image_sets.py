"""The sets of images that configs name, read and divided."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from flow_data import (
    WHOLE,
    DataError,
    ImageSet,
    ImageSplits,
    Share,
    augment_cifar,
    augment_crops,
    augment_mnist,
    digits_splits,
    image_classes,
    load_celeba,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_fashion_mnist,
    load_image_folder,
    load_imagenet,
    load_mnist,
    load_npz_images,
    random_flip,
    split_images,
)
from torch import Tensor

from flow_apps.config.images import Augmentation, ImageData, ImagesConfig
from flow_apps.errors import ConfigError


def load_images(config: ImagesConfig) -> ImageSplits:
    """The parts of the set of images; the last ones that were asked for are kept.

    Raises:
        DataError: If the files are not there or not what they should be.
        ConfigError: If the set cannot be used like that.
    """
    # The shape is what the files tell: a config that knows it by now asks for the same images.
    parts = images_as_read(replace(config, shape=None))
    _require_shape(config, parts.train)
    return parts


@lru_cache(maxsize=1)
def images_as_read(config: ImagesConfig) -> ImageSplits:
    """The parts of the set, whatever shape images have; see `load_images`."""
    parts = _LOADERS[config.data](config)
    _require_alike(config, [parts.train, parts.validation, parts.test])
    if config.n_bits == 8:
        return parts
    if parts.train.levels != 256:
        raise ConfigError(f"n_bits: {config.data} has {parts.train.levels} levels, not 256")
    bits = config.n_bits
    return ImageSplits(
        parts.train.with_bits(bits), parts.validation.with_bits(bits), parts.test.with_bits(bits)
    )


def resolved(config: ImagesConfig) -> ImagesConfig:
    """The config with the shape of its images, from the files where only they tell it.

    Raises:
        DataError: If the files are not there or not what they should be.
    """
    return config if config.known_shape else config.with_shape(load_images(config).train.shape)


def part_under_test(images: ImageSplits, config: ImagesConfig, split: str) -> ImageSet:
    """The images of a split that are tested, spread over it."""
    parts = {
        "train": (images.train, config.validation_size),
        "validation": (images.validation, config.validation_size),
        "test": (images.test, config.test_size),
    }
    part, limit = parts[split]
    return spread(part, limit)


def spread(images: ImageSet, most: int) -> ImageSet:
    """At most that many images, evenly from all of a set: folders have them class by class."""
    count = min(most, len(images))
    return images.select(torch.arange(count) * len(images) // max(count, 1))


def augmented(
    images: Tensor, kind: Augmentation, generator: torch.Generator, share: Share = WHOLE
) -> Tensor:
    """Training images, changed at random; a share of a batch as the whole batch would be."""
    return images if kind == "none" else _AUGMENT[kind](images, generator, share)


_AUGMENT = {
    "flip": random_flip,
    "mnist": augment_mnist,
    "cifar": augment_cifar,
    "crop": augment_crops,
}


def _digits(config: ImagesConfig) -> ImageSplits:
    return digits_splits(load_digits())


def _celeba(config: ImagesConfig) -> ImageSplits:
    root, side = config.data_root, config.side
    return ImageSplits(*(load_celeba(root, side, part) for part in ("train", "valid", "test")))


def _npz(config: ImagesConfig) -> ImageSplits:
    return _held_out(config, _npz_images(config, "train"), _npz_images(config, "val"))


def _npz_images(config: ImagesConfig, part: str) -> ImageSet:
    root = Path(config.data_root)
    files = sorted(root.glob(f"{part}*.npz"))
    if not files:
        raise DataError(root, f"files {part}*.npz", "none", "set data_root to their folder")
    sets = [load_npz_images(file) for file in files]
    _require_alike(config, sets)
    images, labels = (torch.cat(t) for t in zip(*((s.images, s.labels) for s in sets), strict=True))
    return ImageSet(images, labels, 256, root.name)


def _require_alike(config: ImagesConfig, sets: Sequence[ImageSet]) -> None:
    """Refuse parts of different shapes, before anything is trained on one of them."""
    shapes = sorted({(*images.shape, images.levels) for images in sets})
    if len(shapes) > 1:
        raise DataError(
            config.data_root,
            "images of one shape (channels, height, width, levels)",
            ", ".join(map(str, shapes)),
            "keep sets of different sizes in different folders",
        )


def _require_shape(config: ImagesConfig, images: ImageSet) -> None:
    """Refuse images that are not those that the model was made for."""
    known = config.known_shape
    if known is not None and images.shape != known:
        raise DataError(
            config.data_root,
            f"images of shape {known}, as config.json has it",
            f"{images.shape}",
            "give the folder of the images that the run was trained on as --data-root",
        )


def _folder(config: ImagesConfig) -> ImageSplits:
    root = Path(config.data_root)
    train = load_image_folder(root / "train")
    # A class without test images must not shift the numbers of those behind it.
    test = load_image_folder(root / "test", classes=image_classes(root / "train"))
    return _held_out(config, train, test)


def _by_train(load: Callable[..., ImageSet], *sizes: int | str) -> "_Loader":
    """A loader of a set whose test part is had by `train=False`."""

    def loaded(config: ImagesConfig) -> ImageSplits:
        root = config.data_root
        train, test = (load(root, *sizes, train=train) for train in (True, False))
        return _held_out(config, train, test)

    return loaded


def _imagenet(size: Literal[32, 64]) -> "_Loader":
    return lambda config: _by_train(load_imagenet, size, config.variant)(config)


def _held_out(config: ImagesConfig, train: ImageSet, test: ImageSet) -> ImageSplits:
    """Validation images drawn from the training images."""
    if config.held_out >= len(train):
        raise ConfigError(
            f"held_out: expected less than the {len(train)} training images, got "
            f"{config.held_out}; give --set held_out={max(1, len(train) // 10)}"
        )
    parts = split_images(train, validation=config.held_out, test=0, seed=0)
    return ImageSplits(parts.train, parts.validation, test)


_Loader: TypeAlias = Callable[[ImagesConfig], ImageSplits]
_LOADERS: dict[ImageData, _Loader] = {
    "digits": _digits,
    "mnist": _by_train(load_mnist),
    "fashion_mnist": _by_train(load_fashion_mnist),
    "cifar10": _by_train(load_cifar10),
    "cifar100": _by_train(load_cifar100),
    "imagenet32": _imagenet(32),
    "imagenet64": _imagenet(64),
    "celeba": _celeba,
    "npz": _npz,
    "folder": _folder,
}
