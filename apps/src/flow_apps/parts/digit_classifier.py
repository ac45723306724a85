"""The small network that tells digits, and so judges samples of them."""

from collections.abc import Sequence
from typing import final

import torch
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor, nn

from flow_apps.config.checks import require

_WIDTHS = (32, 64)
_HIDDEN = 128
_KERNEL = 3


@final
class DigitClassifier(nn.Module):
    """Two 3x3 convolutions, a pooling and two linear layers, with dropout between them.

    Source: Behrmann et al. 2021, released code (`classify_mnist.py`); PyTorch's MNIST example.

    Args:
        shape: Channels, height and width of an image.
        classes: Number of classes.
        mean: Of every channel in [0, 1], or one for all, by which images are standardised.
        std: Standard deviations that belong to the means.

    Raises:
        ConfigError: If the images are too small.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, shape: Sequence[int], classes: int, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        channels, *sides = shape
        lost = 2 * (_KERNEL - 1)
        big = min(sides) >= lost + 2
        require(big, f"network: expected images of {lost + 2}x{lost + 2} or more, got {sides}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        first, second = _WIDTHS
        height, width = ((side - lost) // 2 for side in sides)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, first, _KERNEL),
            nn.ReLU(),
            nn.Conv2d(first, second, _KERNEL),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(second * height * width, _HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(_HIDDEN, classes),
        )

    def forward(
        self, x: Float[Tensor, "batch channels height width"], *, using: Settings | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Logits of images in [0, 1]; settings are for networks that solve something."""
        del using
        logits: Tensor = self.layers((x - self.mean) / self.std)
        return logits

    def initialize(self, x: Float[Tensor, "batch channels height width"]) -> None:
        """Nothing depends on data."""
