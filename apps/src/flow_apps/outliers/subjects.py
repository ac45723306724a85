"""Models that are measured: trained runs and imported checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flow_core.blocks import FixedPointBlock
from flow_core.dequantization import Dequantized
from flow_core.settings import Settings
from flow_data import ImageSet
from flow_solvers import Tolerance

from flow_apps.config.estimation import EstimatorConfig
from flow_apps.errors import ConfigError
from flow_apps.importing import imported_images, is_imported
from flow_apps.loading import LoadedRun, load_run
from flow_apps.outliers.request import OutliersRequest
from flow_apps.own_data import moved, reading_own_data
from flow_apps.parts.settings import SplitSettings, split_settings
from flow_apps.training import Display

# Where solves stop in the published program: (x − x_prev)² < atol + rtol·|y|, both 1e-5.
_PUBLISHED_STOP = "|change| < sqrt(1e-5 (1 + |y|)), about 3e-3, of every value"


@dataclass(frozen=True)
class Subject:
    """A model of images, and what its passes do their work with.

    Attributes:
        name: Of its folder.
        model: The distribution of integers.
        using: Estimators, and the tolerance where it was asked for.
        own: Gives the test images of a run; None of imports.
        notes: What is worth knowing of its numbers.
    """

    name: str
    model: Dequantized
    using: Settings
    own: Callable[[], ImageSet] | None
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.model.event_shape
        return channels, height, width


def load_subject(path: Path, request: OutliersRequest, display: Display) -> Subject:
    """A model from a run folder, or from the folder of an import.

    Raises:
        AppError: If it cannot be read, or is no model of images.
    """
    if is_imported(path):
        model = imported_images(path, request.device)
        return _subject(path, model, EstimatorConfig(), request, own=None, weights="imported")
    run = load_run(path, checkpoint=request.checkpoint, device=request.device)
    run.say_if_unfinished(display)
    found = run.distribution()
    if not isinstance(found, Dequantized) or run.builders.images is None:
        raise ConfigError(
            f"{path}: expected a model of images, got a run of {run.experiment.name}; give runs of "
            "image or glow, or imported checkpoints"
        )
    estimator = getattr(run.config, "estimator", None)
    weights = f"{request.checkpoint} weights, of step {run.step}"
    return _subject(path, found, estimator, request, own=_own(run, request), weights=weights)


def _own(run: LoadedRun, request: OutliersRequest) -> Callable[[], ImageSet]:
    def images() -> ImageSet:
        """Read when they are wanted alone."""
        assert run.builders.images is not None
        with reading_own_data():
            return run.builders.images(moved(run, request.data_root)).test

    return images


def _subject(
    path: Path,
    model: Dequantized,
    estimator: EstimatorConfig | None,
    request: OutliersRequest,
    *,
    own: Callable[[], ImageSet] | None,
    weights: str,
) -> Subject:
    size = model.flow.event_shape.numel()
    splits = SplitSettings() if estimator is None else split_settings(estimator, size)
    using = splits.of(request.log_dets)
    precision = str(model.flow.base.dtype).removeprefix("torch.")
    solve = next((m.solve for m in model.modules() if isinstance(m, FixedPointBlock)), None)
    notes = [f"{weights}, {precision}"]
    if solve is not None:
        if request.rtol is not None:
            solve = replace(solve, tolerance=Tolerance(request.rtol))
            using = replace(using, solve=solve)
        notes.append(_told(solve.tolerance))
    return Subject(path.resolve().name, model, using, own, tuple(notes))


def _told(tolerance: Tolerance) -> str:
    rtol = "that of the precision, 1e-6 of float32" if tolerance.rtol is None else tolerance.rtol
    return (
        f"solves until rms residual <= rtol rms values + atol, rtol {rtol}, atol {tolerance.atol}; "
        f"published: {_PUBLISHED_STOP}"
    )
