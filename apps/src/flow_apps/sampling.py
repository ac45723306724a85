"""Samples of a trained run, and real images as it sees them."""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from flow_core.blocks import FixedPointBlock
from flow_core.dequantization import Dequantized
from flow_core.distributions import Flow
from flow_core.record import record
from flow_core.settings import Settings, Solve
from flow_solvers import BoundMap, Fallback, Solution, Tolerance, default_solver
from torch import Tensor

from flow_apps.errors import ConfigError, RunFolderError
from flow_apps.parts.sampling import draw_samples
from flow_apps.sample_request import SampleRequest, Sheet
from flow_apps.sample_source import SampleSource, load_source
from flow_apps.sheets import ImageSheets, draw_sheet, write_each
from flow_apps.training import Display
from flow_apps.training.failure import solver_failures
from flow_apps.training.files import write_array
from flow_apps.training.randomness import generator, isolated


@dataclass(frozen=True)
class Budgeted:
    """The recommended solver of a dimension with a limit, without anything to fall back to.

    Attributes:
        budget: Largest number of evaluations of G.
    """

    budget: int

    def solve(self, bound: BoundMap, x: Tensor, start: Tensor, tolerance: Tolerance) -> Solution:
        """Solve w + G(w) = x from `start` within the budget."""
        solver = default_solver(prod(x.shape[1:]))
        first = solver.solvers[0] if isinstance(solver, Fallback) else solver
        limited = replace(first, budget=self.budget)  # type: ignore[type-var] # every solver is a dataclass with a budget
        return limited.solve(bound, x, start, tolerance)


class Sampled(NamedTuple):
    """What was drawn.

    Attributes:
        files: Of every sheet the picture, its numbers and the folder of single images.
        missed: Solves of single samples that missed their tolerance.
        broken: Samples that are not finite.
        reasons: What broke them, layer by layer.
        reconstruction_error: Largest difference of a real image and its reconstruction, in [0, 1];
            None where nothing was reconstructed.
    """

    files: list[Path]
    missed: int
    broken: int
    reasons: str
    reconstruction_error: float | None


class _Places(NamedTuple):
    """Where a sheet goes."""

    picture: Path
    numbers: Path
    single: Path | None


def draw_sheets(path: Path, request: SampleRequest) -> Sampled:
    """Draw sheets of a run, each into a PNG and a npy file; only real images need its data.

    Raises:
        AppError: If the run cannot be read or has no such sheets, or the files are there already.
        DataError: If real images are wanted and missing or damaged.
    """
    display = Display()
    with display.phase("loading"):
        source = load_source(path, request, display)
    flow = source.flow
    _require_images(source, request)
    places = _free_places(request.out or source.path / "samples", request)
    real = _real_images(source, request)
    seeded = isolated(torch.device(request.device), request.seed, "samples")
    watched = solver_failures(source.step, "sampling")
    with torch.no_grad(), seeded, watched, record(flow) as report:
        with display.phase("sampling"):
            contents, error = _contents(source, real, request)
        for sheet, place in places.items():
            _write(source, sheet, contents[sheet], place)
    missed = sum(block.failures for block in report.summary().values())
    files = [file for place in places.values() for file in place if file is not None]
    return Sampled(files, missed, report.breakage.samples, str(report.breakage), error)


def _require_images(source: SampleSource, request: SampleRequest) -> None:
    """Refuse sheets of images where there are none.

    Raises:
        ConfigError: With the options that ask for them.
    """
    wanted: list[str] = [sheet for sheet in request.sheets if sheet != "samples"]
    wanted += ["save_each"] if request.save_each else []
    if wanted and source.images is None:
        raise ConfigError(
            f"{', '.join(wanted)}: expected a run with images, {source.path} is {source.kind}; "
            "leave that out to draw its samples"
        )


def _real_images(source: SampleSource, request: SampleRequest) -> Tensor:
    """Test images, chosen by the seed alone: none of them are read where none are wanted.

    Raises:
        ConfigError: If there are not so many.
        DataError: If they cannot be read.
    """
    wanted = request.real_images
    if not wanted or source.images is None:
        return torch.empty(0, 1, 1, 1, dtype=torch.uint8)
    images = source.images()
    if wanted > len(images):
        raise ConfigError(
            f"expected at most the {len(images)} test images of this run, {wanted} are wanted; "
            "give a smaller --count or --pairs, a pair takes two"
        )
    draw = generator(request.seed, "real images")
    return images.take(torch.randperm(len(images), generator=draw)[:wanted])


def _contents(
    source: SampleSource, real: Tensor, request: SampleRequest
) -> tuple[dict[Sheet, Tensor], float | None]:
    """What is on the sheets, and the largest error of a reconstruction."""
    flow = source.flow
    using = _limited(flow, request.budget)
    found = source.distribution
    if not isinstance(found, Dequantized):
        samples = draw_samples(flow, request.count, request.temperature, using)
        contents: dict[Sheet, Tensor] = {"samples": samples}
        return contents, None
    sheets = ImageSheets(found, real, request, using)
    contents = {sheet: sheets.content(sheet) for sheet in request.sheets}
    return contents, sheets.reconstruction_error()


def _write(source: SampleSource, sheet: Sheet, content: Tensor, places: _Places) -> None:
    if sheet == "samples":
        assert source.draw is not None
        source.draw(content, places.picture)
    else:
        draw_sheet(sheet, content, places.picture)
    write_array(places.numbers, content)
    if places.single is not None:
        model = source.distribution
        assert isinstance(model, Dequantized)
        write_each(content, model.levels, places.single)


def _limited(flow: Flow, budget: int | None) -> Settings:
    """Settings with solves of at most that many evaluations."""
    if budget is None:
        return Settings()
    blocks = (m for m in flow.modules() if isinstance(m, FixedPointBlock))
    own = next((block.solve for block in blocks), Solve())
    return Settings(solve=replace(own, solver=Budgeted(budget), on_failure="return"))


def _free_places(folder: Path, request: SampleRequest) -> dict[Sheet, _Places]:
    """Where every sheet goes.

    Raises:
        RunFolderError: If something is there already.
    """
    found: dict[Sheet, _Places] = {}
    for sheet in request.sheets:
        stem = request.stem(sheet)
        single = folder / stem if request.save_each else None
        found[sheet] = _Places(folder / f"{stem}.png", folder / f"{stem}.npy", single)
    for file in (file for places in found.values() for file in places):
        if file is not None and file.exists():
            raise RunFolderError(
                f"{file} exists already and is not overwritten; give another --out or --seed"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return found
