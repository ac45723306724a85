"""Integer images with labels, as a value."""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class ImageSet:
    """Integer images and their class labels.

    Values are integers in `[0, levels)`; turning them into real numbers is the business of a
    dequantizer, so that bits per dimension always refer to the same integers.

    What `select` and `with_bits` return shares the memory of the set that they were asked of, which
    may be mapped from a file larger than memory: images are gathered when `take` asks for them.

    Attributes:
        source: uint8 values, shape `(stored, channels, height, width)`.
        labels: int64 classes, shape `(count,)`; -1 where they are not known.
        levels: Number of values that a pixel can take.
        name: Name for reports.
        index: Which images of `source` belong to the set, shape `(count,)`; None for all of them.
        dropped_bits: Least significant bits of `source` that are left out.

    Raises:
        ValueError: Shapes do not fit, or a value is not below `levels`.
    """

    # Shapes and dtypes are checked below, for every user and with a plainer message.
    source: Tensor
    labels: Tensor
    levels: int
    name: str
    index: Tensor | None = None
    dropped_bits: int = 0

    def __post_init__(self) -> None:
        if self.source.ndim != 4 or self.source.dtype != torch.uint8:
            raise ValueError(
                "expected uint8 images of shape (count, channels, height, width), "
                f"got {self.source.dtype} of shape {tuple(self.source.shape)}"
            )
        count = len(self.source) if self.index is None else len(self.index)
        if self.labels.shape != (count,) or self.labels.dtype != torch.int64:
            raise ValueError(
                f"expected {count} int64 labels, "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        if not 2 <= self.levels <= 256:
            raise ValueError(f"expected between 2 and 256 levels, got {self.levels}")
        stored_levels = self.levels << self.dropped_bits
        # With 256 levels every byte is one, and images mapped from a file need not all be read.
        if stored_levels < 256 and self.source.numel() and int(self.source.max()) >= stored_levels:
            raise ValueError(
                f"expected pixel values below {self.levels}, got {int(self.source.max())}; "
                "give the true number of levels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All images, shape `(count, channels, height, width)`; of a selection a copy."""
        return self.take(slice(None))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.source.shape[1:]
        return channels, height, width

    @property
    def dimensions(self) -> int:
        """Number of values in one image, the D of bits per dimension."""
        channels, height, width = self.shape
        return channels * height * width

    def take(self, where: Int[Tensor, " selected"] | slice) -> UInt8[Tensor, "selected c h w"]:
        """The images at these indices, in that order: the only ones that are read."""
        stored = self.source[where if self.index is None else self.index[where]]
        return stored >> self.dropped_bits if self.dropped_bits else stored

    def select(self, where: Int[Tensor, " selected"] | Bool[Tensor, " count"]) -> "ImageSet":
        """The set of the images at these indices, in that order; none is read yet."""
        every = torch.arange(len(self), device=self.source.device)
        index = (every if self.index is None else self.index)[where]
        return replace(self, index=index, labels=self.labels[where])

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same images in the memory of a device."""
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
        return replace(self, levels=2**n_bits, name=name, dropped_bits=8 - n_bits)
