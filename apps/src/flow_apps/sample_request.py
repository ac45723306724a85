"""Which sheets of a trained run are wanted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from flow_apps.errors import ConfigError
from flow_apps.loading import Choice

Sheet: TypeAlias = Literal["samples", "real", "reconstructions", "interpolations", "side_by_side"]


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What is to be drawn.

    Attributes:
        sheets: samples: of the model. real: test images. reconstructions: test images above what
            the model makes of their latents. interpolations: on straight lines between the latents
            of two test images, a row for each pair. side_by_side: real images, their
            reconstructions and samples.
        count: Number of samples, and of real images.
        pairs: Rows of the interpolations.
        steps: Images of a row, both ends among them.
        temperature: Standard deviation of the base distribution, of samples.
        budget: Largest number of evaluations of a solve, or None for exact images.
        seed: Of the samples, and of the choice of real images.
        checkpoint: The last weights, or the best on validation.
        device: Where to compute.
        data_root: Where real images are now; None for where they were.
        save_each: Whether every image of a sheet is written by itself too.
        out: Folder for the files; None for `samples/` in the run folder.
        images: Of an imported checkpoint the set of real images, as fields of `ImagesConfig`.
    """

    sheets: tuple[Sheet, ...] = ("samples",)
    count: int = 64
    pairs: int = 8
    steps: int = 8
    temperature: float = 1.0
    budget: int | None = None
    seed: int = 0
    checkpoint: Choice = "last"
    device: str = "cpu"
    data_root: str | None = None
    save_each: bool = False
    out: Path | None = None
    images: Mapping[str, object] = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("pairs", 1), ("steps", 2)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name}: expected an integer from {least} on, got {value}")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature: expected a positive number, got {self.temperature}")
        if self.budget is not None and self.budget < 1:
            raise ConfigError(f"budget: expected a positive integer, got {self.budget}")

    @property
    def real_images(self) -> int:
        """How many real images are needed; the first of them are those of the pairs."""
        alone = {"real", "reconstructions", "side_by_side"}.intersection(self.sheets)
        of_pairs = 2 * self.pairs if "interpolations" in self.sheets else 0
        return max(self.count if alone else 0, of_pairs)

    def stem(self, sheet: Sheet) -> str:
        """File name that says how a sheet was made."""
        size = f"n{self.pairs}x{self.steps}" if sheet == "interpolations" else f"n{self.count}"
        words: list[str] = [sheet]
        if sheet != "real":
            words.append(self.checkpoint)
        words.append(size)
        if sheet in {"samples", "side_by_side"}:
            words.append(f"T{self.temperature:g}")
        if sheet != "real" and self.budget is not None:
            words.append(f"budget{self.budget}")
        return "_".join([*words, f"seed{self.seed}"])
