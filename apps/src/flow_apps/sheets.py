"""What is on sheets of images, and how they are drawn."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from flow_core.dequantization import Dequantized
from flow_core.settings import Settings
from jaxtyping import Float, UInt8
from torch import Tensor

from flow_apps.figures.images import (
    draw_above,
    draw_beside,
    draw_images,
    draw_rows,
    write_pixels,
)
from flow_apps.parts.latent import decoded, encoded, interpolated
from flow_apps.parts.noise import within_bins
from flow_apps.parts.sampling import draw_samples
from flow_apps.sample_request import SampleRequest, Sheet

PANELS = ("real", "reconstructed", "samples")
"""Of side_by_side, in their order."""


class ImageSheets:
    """Sheets of a distribution of images; what several of them show is computed once.

    Args:
        model: The distribution.
        real: As many real images as the request needs.
        request: What is wanted.
        using: What solves do their work with.
    """

    def __init__(
        self,
        model: Dequantized,
        real: UInt8[Tensor, "count channels height width"],
        request: SampleRequest,
        using: Settings,
    ) -> None:
        self.model = model
        self.real = within_bins(real, model.levels)
        self.request = request
        self.using = using
        self._integers = real

    @cached_property
    def samples(self) -> Float[Tensor, "count channels height width"]:
        """Of the request's number and temperature."""
        count, temperature = self.request.count, self.request.temperature
        return self.model.visible(draw_samples(self.model.flow, count, temperature, self.using))

    @cached_property
    def reconstructed(self) -> Float[Tensor, "count channels height width"]:
        """What the model makes of the latents of the real images."""
        return decoded(self.model, self._latents, self.using)

    def content(self, sheet: Sheet) -> Float[Tensor, "*sheet channels height width"]:
        """The images of a sheet.

        Of reconstructions pairs, of interpolations rows, and the panels of side_by_side; the other
        sheets have images one after another.
        """
        count = self.request.count
        match sheet:
            case "samples":
                return self.samples
            case "real":
                return self.real[:count]
            case "reconstructions":
                return torch.stack([self.real[:count], self.reconstructed[:count].cpu()], 1)
            case "interpolations":
                ends, steps = 2 * self.request.pairs, self.request.steps
                z, found = self._latents[:ends], self.reconstructed[:ends]
                return interpolated(self.model, z, found, steps, self.using)
            case "side_by_side":
                panels = (self.real[:count], self.reconstructed[:count], self.samples)
                return torch.stack([panel.cpu() for panel in panels])

    def reconstruction_error(self) -> float | None:
        """Largest difference of a real image and its reconstruction; None where there is none."""
        if "reconstructed" not in vars(self):
            return None
        return float((self.reconstructed.cpu() - self.real).abs().max())

    @cached_property
    def _latents(self) -> Tensor:
        return encoded(self.model, self._integers, self.using)


def draw_sheet(sheet: Sheet, content: Float[Tensor, "*sheet channels h w"], path: Path) -> None:
    """Draw what `ImageSheets.content` gave."""
    match sheet:
        case "samples" | "real":
            draw_images(content, path)
        case "reconstructions":
            draw_above(content[:, 0], content[:, 1], path)
        case "interpolations":
            draw_rows(content, path)
        case "side_by_side":
            panels: Mapping[str, Tensor] = dict(zip(PANELS, content, strict=True))
            draw_beside(panels, path)


def write_each(content: Float[Tensor, "*sheet channels h w"], levels: int, folder: Path) -> None:
    """Write every image by itself as the integers that it stands for, spread over 0 ... 255.

    A file is called by the place of its image on the sheet. Images that are not finite stand for
    no integers: they have no file.
    """
    integers = (content.cpu() * levels).floor().clamp(0, levels - 1)
    pixels = (integers * 255 / (levels - 1)).round()
    folder.mkdir(parents=True)
    for place in np.ndindex(*content.shape[:-3]):
        image = pixels[place]
        if bool(image.isfinite().all()):
            name = "_".join(f"{number:05d}" for number in place)
            write_pixels(image.to(torch.uint8), folder / f"{name}.png")
