"""How stable the inverse of a trained run is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from flow_core.diagnostics import StabilityReport, draw_stability, stability_report

from flow_apps.errors import ConfigError
from flow_apps.figures.canvas import save_figure
from flow_apps.figures.stability import draw_course
from flow_apps.loading import Choice, LoadedRun, load_run
from flow_apps.own_data import moved, reading_own_data
from flow_apps.parts.invertibility import Invertibility
from flow_apps.training import Display, RunFolder
from flow_apps.training.failure import solver_failures
from flow_apps.training.files import write_atomic, write_json
from flow_apps.training.randomness import isolated

_OF_IMAGES = 4
_LEVELS = 255.0


@runtime_checkable
class MeasuresInverse(Protocol):
    """Tests of a model that inverts."""

    invertibility: Invertibility


@dataclass(frozen=True)
class StabilityRequest:
    """What is asked of a run.

    Attributes:
        checkpoint: Which weights.
        device: As torch writes it.
        data_root: Where the data are now; None for where they were.
        samples: Real test points that are measured.
        jacobians: How many of them have singular values.
        beside: Other runs, whose course is drawn beside that of this one.
    """

    checkpoint: Choice = "last"
    device: str = "cpu"
    data_root: str | None = None
    samples: int = 64
    jacobians: int = 1
    beside: Sequence[Path] = ()


def measure_stability(path: Path, request: StabilityRequest) -> StabilityReport:
    """Measure a run, and write `stability/` into its folder: report.json, .txt and .png.

    Where stability was logged in training, `course.png` has it over the steps.

    Raises:
        AppError: If the run or the checkpoint cannot be read, or its model has no inverse.
        DataError: If the data are missing or damaged; it says where they were.
    """
    _require_counts(request)
    beside = [RunFolder.open(other).metrics_path for other in request.beside]
    display = Display()
    with display.phase("loading"):
        run, inverse = load_invertible(
            path,
            display,
            checkpoint=request.checkpoint,
            device=request.device,
            data_root=request.data_root,
        )
    x = inverse.points(request.samples)
    device, seed = next(run.model.parameters()).device, run.config.training.seed
    with (
        display.phase("measuring"),
        isolated(device, seed, "stability"),
        solver_failures(run.step, "measurement"),
    ):
        report = stability_report(
            inverse.bijection,
            x,
            using=inverse.using,
            jacobians=min(request.jacobians, len(x)),
            leave_out=() if request.jacobians else ("singular values", "log-det"),
            pixel_scale=_LEVELS if x.ndim == _OF_IMAGES else 1.0,
        )
    _write(run, request, report, beside)
    return report


def load_invertible(
    path: Path, display: Display, *, checkpoint: Choice, device: str, data_root: str | None
) -> tuple[LoadedRun, Invertibility]:
    """A run, and what of it inverts, with its test points.

    Raises:
        AppError: If the run or the checkpoint cannot be read, or its model has no inverse.
        DataError: If the data are missing or damaged; it says where they were.
    """
    run = load_run(path, checkpoint=checkpoint, device=device)
    with reading_own_data():
        parts = run.builders.parts(moved(run, data_root), run.model, frozenset())
    run.say_if_unfinished(display)
    if not isinstance(parts.tests, MeasuresInverse):
        raise ConfigError(f"{path}: a run of {run.experiment.name}, whose model has no inverse")
    return run, parts.tests.invertibility


def _require_counts(request: StabilityRequest) -> None:
    if request.samples < 1 or request.jacobians < 0:
        raise ConfigError(
            "expected at least one sample and 0 Jacobians or more, got "
            f"{request.samples} and {request.jacobians}"
        )


def _write(
    run: LoadedRun, request: StabilityRequest, report: StabilityReport, beside: Sequence[Path]
) -> None:
    folder = run.folder.path / "stability"
    folder.mkdir(exist_ok=True)
    told = {"checkpoint": request.checkpoint, "step": run.step, **report.to_dict()}
    write_json(folder / "report.json", told)
    write_atomic(folder / "report.txt", f"{report}\n".encode())
    save_figure(draw_stability(report), folder / "report.png")
    draw_course([run.folder.metrics_path, *beside], folder / "course.png")
