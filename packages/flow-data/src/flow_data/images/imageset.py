"""Integer images with labels, as a value."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class ImageSet:
    """Integer images and their class labels.

    Values are integers in `[0, levels)`; turning them into real numbers is the business of a
    dequantizer, so that bits per dimension always refer to the same integers.

    Attributes:
        images: uint8 values, shape `(count, channels, height, width)`.
        labels: int64 classes, shape `(count,)`; -1 where they are not known.
        levels: Number of values that a pixel can take.
        name: Name for reports.

    Raises:
        ValueError: Shapes do not fit, or a value is not below `levels`.
    """

    # Shapes and dtypes are checked below, for every user and with a plainer message.
    images: Tensor
    labels: Tensor
    levels: int
    name: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                "expected uint8 images of shape (count, channels, height, width), "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"expected {len(self.images)} int64 labels, "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        if not 2 <= self.levels <= 256:
            raise ValueError(f"expected between 2 and 256 levels, got {self.levels}")
        # With 256 levels every byte is one, and images mapped from a file need not all be read.
        if self.levels < 256 and self.images.numel() and int(self.images.max()) >= self.levels:
            raise ValueError(
                f"expected pixel values below {self.levels}, got {int(self.images.max())}; "
                "give the true number of levels"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def dimensions(self) -> int:
        """Number of values in one image, the D of bits per dimension."""
        channels, height, width = self.shape
        return channels * height * width

    def select(self, index: Int[Tensor, " selected"] | Bool[Tensor, " count"]) -> "ImageSet":
        """The images at these indices, in that order."""
        return ImageSet(self.images[index], self.labels[index], self.levels, self.name)

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same images on a device."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.levels, self.name)

    def with_bits(self, n_bits: int) -> "ImageSet":
        """The `n_bits` most significant bits of 8-bit images: x // 2^(8 - n_bits).

        Bits per dimension of the result are not comparable with those of 8-bit images, so the name
        says how many bits there are.

        Args:
            n_bits: Between 1 and 8; 8 changes nothing.

        Raises:
            ValueError: `n_bits` is outside 1..8, or the images do not have 256 levels.
        """
        if not 1 <= n_bits <= 8:
            raise ValueError(f"expected between 1 and 8 bits, got {n_bits}")
        if self.levels != 256:
            raise ValueError(f"expected 8-bit images, with 256 levels, got {self.levels} levels")
        if n_bits == 8:
            return self
        name = f"{self.name}-{n_bits}bit"
        return ImageSet(self.images >> (8 - n_bits), self.labels, 2**n_bits, name)
