"""Which images are trained on, and which parts of them are used for tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from flow_data import (
    DataError,
    ImageSet,
    ImageSplits,
    augment_cifar,
    augment_mnist,
    digits_splits,
    load_celeba,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_fashion_mnist,
    load_image_folder,
    load_imagenet,
    load_mnist,
    load_npz_images,
    split_images,
)
from torch import Tensor

from flow_apps.errors import ConfigError
from flow_apps.experiments.contraction import require_spread
from flow_apps.training import require

ImageData: TypeAlias = Literal[
    "digits",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "imagenet32",
    "imagenet64",
    "celeba",
    "npz",
    "folder",
]
Augmentation: TypeAlias = Literal["none", "mnist", "cifar"]


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """A set of images and how much of it is used for tests.

    Attributes:
        data: Name of the set. npz: files train*.npz and val*.npz in data_root, as those of the
            downsampled ImageNet; folder: class folders of pictures in train/ and test/.
        data_root: The folder that torchvision calls root; the digits need none.
        side: Side of CelebA's pictures: 32, 64 or 128.
        variant: Which ImageNet of that size: they are different data.
        n_bits: Bits of a pixel that are kept; below 8 only of 8-bit images.
        augment: How training images are changed.
        held_out: Training images that are kept for validation, drawn once; sets with a validation
            part of their own do not need it.
        validation_size: At most that many validation images, the first, tell during training how
            good it is.
        test_size: At most that many test images, the first, are tested in the end.
        test_draws: Draws of the dequantisation noise in the final test.
        test_batch_size: Images at a time in tests.
        evaluate_train: Whether training images, as many, are tested like the validation images.
    """

    data: ImageData = "digits"
    data_root: str = "data"
    side: Literal[32, 64, 128] = 64
    variant: Literal["pixelrnn", "chrabaszcz"] = "pixelrnn"
    n_bits: int = 8
    augment: Augmentation = "none"
    held_out: int = 5000
    validation_size: int = 500
    test_size: int = 10_000
    test_draws: int = 20
    test_batch_size: int = 200
    evaluate_train: bool = False

    def __post_init__(self) -> None:
        sizes = ("held_out", "validation_size", "test_size", "test_draws", "test_batch_size")
        for name in sizes:
            value = getattr(self, name)
            require(value > 0, f"{name}: expected a positive integer, got {value}")
        require(1 <= self.n_bits <= 8, f"n_bits: expected 1 to 8, got {self.n_bits}")
        require_spread(self.test_size)


def load_images(config: ImagesConfig) -> ImageSplits:
    """The parts of the set of images.

    Raises:
        DataError: If the files are not there or not what they should be.
        ConfigError: If the set cannot be used like that.
    """
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


def augmented(images: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """Training images, changed at random."""
    return images if kind == "none" else _AUGMENT[kind](images, generator)


_AUGMENT = {"mnist": augment_mnist, "cifar": augment_cifar}


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


def _folder(config: ImagesConfig) -> ImageSplits:
    root = Path(config.data_root)
    train, test = (load_image_folder(root / part) for part in ("train", "test"))
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
        raise ConfigError(f"held_out: expected less than the {len(train)} training images")
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
