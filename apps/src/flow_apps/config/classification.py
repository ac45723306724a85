"""Classifiers on the scales of flows, alone and beside the likelihood."""

from dataclasses import dataclass, field

from flow_apps.config.checks import require, require_counts
from flow_apps.config.images import ImagesConfig

_MOST_CLASSES = 100_000


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """A head for every scale of a flow, and one linear layer from all of them to the classes.

    Attributes:
        classes: Number of classes; none: as many as the set of images has, of npz and folder read
            from their labels.
        channels: Of every head.
    """

    classes: int | None = None
    channels: int = 256

    def __post_init__(self) -> None:
        require_counts(self, "channels", most=8192)
        if self.classes is not None:
            require_counts(self, "classes", least=2, most=_MOST_CLASSES)

    def known_classes(self, images: ImagesConfig) -> int | None:
        """Number of classes as far as configs tell it."""
        return images.known_classes if self.classes is None else self.classes

    def classes_of(self, images: ImagesConfig) -> int:
        """Number of classes.

        Raises:
            ConfigError: If only the labels could tell.
        """
        classes = self.known_classes(images)
        require(classes is not None, f"classes: expected the number of classes of {images.data}")
        assert classes is not None
        return classes


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """What is trained beside the likelihood, and how much that counts.

    Attributes:
        likelihood_weight: w of the loss w·(bits per dimension) + (cross-entropy in bits). With the
            number of values of an image it is the published loss, with 1 that of the published
            `--scale-dim True`.
        heads: What the classes are told from.
    """

    likelihood_weight: float = 1.0
    heads: HeadsConfig = field(default_factory=HeadsConfig)

    def __post_init__(self) -> None:
        weight = self.likelihood_weight
        require(0 < weight < 1e9, f"likelihood_weight: expected a positive number, got {weight}")
