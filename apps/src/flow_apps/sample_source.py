"""What sheets are drawn of: a trained run, or an imported checkpoint of images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flow_core.dequantization import Dequantized
from flow_core.distributions import Flow
from flow_data import ImageSet
from torch import Tensor

from flow_apps.errors import ConfigError
from flow_apps.figures.images import draw_images
from flow_apps.import_data import images_of_import
from flow_apps.importing import imported_images, is_imported
from flow_apps.loading import load_run
from flow_apps.own_data import moved, reading_own_data
from flow_apps.parts.image_sets import load_images
from flow_apps.sample_request import SampleRequest
from flow_apps.training import Display


@dataclass(frozen=True)
class SampleSource:
    """A distribution, and how it is drawn.

    Attributes:
        path: Its folder.
        kind: What it is, for messages.
        distribution: Of vectors or images; None where there is none.
        draw: Draws its samples; None where there is nothing to draw.
        images: Gives its real test images; None where it has none.
        step: Of its weights; 0 of an import.
    """

    path: Path
    kind: str
    distribution: Flow | Dequantized | None
    draw: Callable[[Tensor, Path], None] | None
    images: Callable[[], ImageSet] | None
    step: int

    @property
    def flow(self) -> Flow:
        """The distribution of real vectors or images.

        Raises:
            ConfigError: If there is none that is worth sampling.
        """
        found = self.distribution
        if self.draw is None or found is None:
            raise ConfigError(f"{self.path} is {self.kind}: there is nothing to sample")
        return found.flow if isinstance(found, Dequantized) else found


def load_source(path: Path, request: SampleRequest, display: Display) -> SampleSource:
    """A source from a run folder, or from that of an import.

    Raises:
        AppError: If it cannot be read.
    """
    if is_imported(path):
        return _of_import(path, request)
    if request.images:
        raise ConfigError(f"set: expected none, {path} is a run, which has images of its own")
    run = load_run(path, checkpoint=request.checkpoint, device=request.device)
    run.say_if_unfinished(display)
    splits = run.builders.images

    def images() -> ImageSet:
        """Read when they are wanted alone."""
        assert splits is not None
        config = moved(run, request.data_root)
        with reading_own_data():
            return splits(config).test

    return SampleSource(
        path=run.folder.path,
        kind=f"a run of {run.experiment.name}",
        distribution=run.distribution(),
        draw=run.builders.draw_samples,
        images=None if splits is None else images,
        step=run.step,
    )


def _of_import(path: Path, request: SampleRequest) -> SampleSource:
    model = imported_images(path, request.device)

    def images() -> ImageSet:
        """As above."""
        config = images_of_import(model, request.images, request.data_root)
        return load_images(config).test

    return SampleSource(path, "an import", model, draw_images, images, 0)
