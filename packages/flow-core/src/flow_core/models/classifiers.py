"""Classifiers on the scales of flows, alone and beside the likelihood.

Source: Chen et al. 2019 (Residual Flows), §5.3 and released code; Ahn et al. 2022 (Monotone Flows).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.dequantization import Dequantized
from flow_core.distributions import exact
from flow_core.layers import ActNorm, Landmark, Sightings, landmarks
from flow_core.passes import Pass
from flow_core.settings import DEFAULT_SETTINGS, Settings


@final
class ScaleHeads(nn.Module):
    """A head for every scale, and one linear layer from all of them to the classes.

    A head is a 3x3 convolution, an ActNorm, a rectifier and the mean over the image.

    Args:
        seen: Landmarks of images, one a scale.
        classes: Number of classes.
        channels: Of every head.

    Raises:
        ValueError: If there is no landmark, or fewer than two classes, or no channel.
    """

    if TYPE_CHECKING:

        def __call__(self, features: Mapping[str, Tensor]) -> Tensor:
            """Same as `forward`."""
            ...

    def __init__(self, seen: Sequence[Landmark], classes: int, channels: int = 256) -> None:
        super().__init__()
        if not seen:
            raise ValueError("expected a flow with landmarks, got none; give landmarks=True")
        if classes < 2 or channels < 1:
            raise ValueError(
                f"expected at least two classes and one channel, got {classes} and {channels}"
            )
        self.convolutions = nn.ModuleDict(
            {mark.name: nn.Conv2d(mark.shape[0], channels, 3, padding=1) for mark in seen}
        )
        self.norms = nn.ModuleDict({mark.name: ActNorm(channels) for mark in seen})
        self.logits = nn.Linear(channels * len(seen), classes)

    def forward(self, features: Mapping[str, Tensor]) -> Float[Tensor, "batch classes"]:
        """Logits from what was seen at each landmark, by its name."""
        pooled = [
            norm.transform(self.convolutions[name](features[name])).relu().mean((-2, -1))
            for name, norm in self._norms()
        ]
        logits: Tensor = self.logits(torch.cat(pooled, 1))
        return logits

    def initialize(self, features: Mapping[str, Tensor]) -> None:
        """Set the ActNorms from a batch."""
        for name, norm in self._norms():
            norm.initialize(self.convolutions[name](features[name]))

    def _norms(self) -> list[tuple[str, ActNorm]]:
        return [(name, norm) for name, norm in self.norms.items() if isinstance(norm, ActNorm)]


@final
class FlowClassifier(nn.Module):
    """Logits of the classes of images from what the scales of a bijection make of them.

    No log-determinant is computed: a residual block is one evaluation of G.

    Args:
        bijection: Of images, with a landmark in every scale.
        heads: On these landmarks.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, *, using: Settings | None = None) -> Tensor:
            """Same as `forward`."""
            ...

    def __init__(self, bijection: Bijection, heads: ScaleHeads) -> None:
        super().__init__()
        self.bijection = bijection
        self.heads = heads

    def forward(
        self, x: Float[Tensor, "batch channels height width"], *, using: Settings | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Logits of images as the bijection takes them."""
        return self.heads(self._features(x, _without_log_det(using)))

    def initialize(self, x: Float[Tensor, "batch channels height width"]) -> None:
        """Set what depends on data from a batch of images: the bijection, then the heads."""
        with torch.no_grad():
            how = _without_log_det(None)._replace(initializes=True)
            self.heads.initialize(self._features(x, how))

    def _features(self, x: Tensor, how: Pass) -> dict[str, Tensor]:
        seen = Sightings()
        self.bijection(x, how=how._replace(collector=seen))
        return seen.take()


class Classified(NamedTuple):
    """What a `HybridModel` tells of a batch.

    Attributes:
        log_prob: A lower bound of the log-likelihood in nats, see `Dequantized.log_prob_bound`.
        logits: Of the classes.
    """

    log_prob: Float[Tensor, " batch"]
    logits: Float[Tensor, "batch classes"]


@final
class HybridModel(nn.Module):
    """A distribution of integer images and a classifier on its scales, from one pass.

    Args:
        density: Of the images, with a landmark in every scale of its flow.
        heads: On these landmarks.
    """

    if TYPE_CHECKING:

        def __call__(
            self, x: Tensor, *, noise: Tensor | None = None, using: Settings | None = None
        ) -> Classified:
            """Same as `forward`."""
            ...

    def __init__(self, density: Dequantized, heads: ScaleHeads) -> None:
        super().__init__()
        self.density = density
        self.heads = heads

    def forward(
        self,
        x: Shaped[Tensor, "batch channels height width"],
        *,
        noise: Float[Tensor, "batch modelled height width"] | None = None,
        using: Settings | None = None,
    ) -> Classified:
        """Log-likelihood and logits of integer images; arguments as of `Dequantized`."""
        seen = Sightings()
        log_prob = self.density(x, noise=noise, how=Pass(exact(using), collector=seen))
        return Classified(log_prob, self.heads(seen.take()))

    def initialize(
        self,
        x: Shaped[Tensor, "batch channels height width"],
        *,
        noise: Float[Tensor, "batch modelled height width"] | None = None,
    ) -> None:
        """Set what depends on data from a batch of integers: the density, then the heads."""
        with torch.no_grad():
            self.density.initialize(x, noise=noise)
            seen = Sightings()
            self.density(x, noise=noise, how=_without_log_det(None)._replace(collector=seen))
            self.heads.initialize(seen.take())


def scale_heads(model: nn.Module, classes: int, channels: int = 256) -> ScaleHeads:
    """Heads on all landmarks of a model; errors as of `ScaleHeads` and `landmarks`."""
    return ScaleHeads(landmarks(model), classes, channels)


def _without_log_det(using: Settings | None) -> Pass:
    settings = DEFAULT_SETTINGS if using is None else using
    return Pass(settings, wants_log_det=False)
