"""Which images are trained on, and which parts of them are used for tests."""

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

from flow_apps.config.checks import require, require_counts, require_spread
from flow_apps.config.neighbours import only_with

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
Augmentation: TypeAlias = Literal["none", "flip", "mnist", "cifar", "crop"]
ImageShape: TypeAlias = tuple[int, int, int]

_SHAPES: dict[ImageData, ImageShape] = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion_mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "imagenet32": (3, 32, 32),
    "imagenet64": (3, 64, 64),
}
_CLASSES: dict[ImageData, int] = {
    "digits": 10,
    "mnist": 10,
    "fashion_mnist": 10,
    "cifar10": 10,
    "cifar100": 100,
    "imagenet32": 1000,
    "imagenet64": 1000,
}
_LEVELS_OF_DIGITS = 17
_OTHERS_THAN_DIGITS = tuple(name for name in get_args(ImageData) if name != "digits")
_WITHOUT_VALIDATION = tuple(name for name in _OTHERS_THAN_DIGITS if name != "celeba")


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """A set of images and how much of it is used for tests.

    Attributes:
        data: Name of the set. npz: files train*.npz and val*.npz in data_root, as those of the
            downsampled ImageNet; folder: class folders of pictures in train/ and test/.
        data_root: The folder that torchvision calls root; the digits need none.
        shape: Channels, height and width of npz and folder, read from the files where it is none;
            other sets have their own.
        side: Side of CelebA's pictures: 32, 64 or 128.
        variant: Which ImageNet of that size: they are different data.
        n_bits: Bits of a pixel that are kept; below 8 only of 8-bit images.
        augment: How training images are changed.
        held_out: Training images that are kept for validation, drawn once; sets with a validation
            part of their own do not need it.
        validation_size: At most that many validation images, spread over all of them, tell during
            training how good it is.
        test_size: At most that many test images, spread likewise, are tested in the end.
        test_draws: Draws of the dequantisation noise in the final test: what is told of an image is
            their mean.
        importance_samples: Samples of the noise in every such draw: with more than one it is the
            tighter bound of importance weighting (Burda et al. 2016).
        test_batch_size: Images at a time in tests.
        evaluate_train: Whether training images, as many, are tested like the validation images.
    """

    data: ImageData = "digits"
    data_root: str = field(default="data", metadata=only_with(("data", _OTHERS_THAN_DIGITS)))
    shape: ImageShape | None = field(
        default=None, metadata=only_with(("data", ("npz", "folder")), otherwise=None)
    )
    side: Literal[32, 64, 128] = field(default=64, metadata=only_with(("data", ("celeba",))))
    variant: Literal["pixelrnn", "chrabaszcz"] = field(
        default="pixelrnn", metadata=only_with(("data", ("imagenet32", "imagenet64")))
    )
    n_bits: int = field(default=8, metadata=only_with(("data", _OTHERS_THAN_DIGITS), otherwise=8))
    augment: Augmentation = "none"
    held_out: int = field(default=5000, metadata=only_with(("data", _WITHOUT_VALIDATION)))
    validation_size: int = 500
    test_size: int = 10_000
    test_draws: int = 20
    importance_samples: int = 1
    test_batch_size: int = 200
    evaluate_train: bool = False

    def __post_init__(self) -> None:
        sizes = ("held_out", "validation_size", "test_size", "test_draws", "test_batch_size")
        require_counts(self, *sizes, "importance_samples", most=10**9)
        require(1 <= self.n_bits <= 8, f"n_bits: expected 1 to 8, got {self.n_bits}")
        require_spread(self.test_size)
        digits = self.data == "digits" and self.n_bits < 8
        require(not digits, f"n_bits: digits has {_LEVELS_OF_DIGITS} levels, not 256: expected 8")
        known = self.known_shape
        fits = self.shape is None or known is None or self.shape == known
        require(fits, f"shape: expected none, {self.data} has its own, got {self.shape}")
        positive = self.shape is None or min(self.shape) > 0
        require(positive, f"shape: expected positive integers, got {self.shape}")

    @property
    def known_shape(self) -> ImageShape | None:
        """The shape of an image as far as the config tells it."""
        if self.data == "celeba":
            return 3, self.side, self.side
        return _SHAPES.get(self.data, self.shape)

    @property
    def image_shape(self) -> ImageShape:
        """Channels, height and width of an image.

        Raises:
            ConfigError: If only the files could tell.
        """
        shape = self.known_shape
        require(shape is not None, f"shape: expected [channels, height, width] of {self.data}")
        assert shape is not None
        return shape

    @property
    def known_classes(self) -> int | None:
        """Number of classes as far as the name of the set tells it."""
        return _CLASSES.get(self.data)

    @property
    def levels(self) -> int:
        """Values that a pixel can take."""
        return _LEVELS_OF_DIGITS if self.data == "digits" else 2**self.n_bits

    def with_shape(self, shape: ImageShape) -> "ImagesConfig":
        """The same with the shape that the files have, where only they tell it."""
        return self if self.known_shape else replace(self, shape=shape)
