"""Samples of a trained run."""

import math
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
from flow_apps.loading import Choice, LoadedRun, load_run
from flow_apps.parts.sampling import draw_samples
from flow_apps.training import Display
from flow_apps.training.failure import solver_failures
from flow_apps.training.files import write_array
from flow_apps.training.randomness import isolated


@dataclass(frozen=True)
class SampleRequest:
    """What samples are wanted.

    Attributes:
        count: Number of samples.
        temperature: Standard deviation of the base distribution.
        budget: Largest number of evaluations of a solve, or None for exact samples.
        seed: Of the samples.
        checkpoint: The last weights, or the best on validation.
        device: Where to compute.
        out: Folder for the files; None for `samples/` in the run folder.
    """

    count: int = 64
    temperature: float = 1.0
    budget: int | None = None
    seed: int = 0
    checkpoint: Choice = "last"
    device: str = "cpu"
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count: expected a positive integer, got {self.count}")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature: expected a positive number, got {self.temperature}")
        if self.budget is not None and self.budget < 1:
            raise ConfigError(f"budget: expected a positive integer, got {self.budget}")

    @property
    def stem(self) -> str:
        """File name that says how the samples were made."""
        budget = "" if self.budget is None else f"_budget{self.budget}"
        return (
            f"samples_{self.checkpoint}_n{self.count}_T{self.temperature:g}{budget}_seed{self.seed}"
        )


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
        files: The picture and the samples.
        missed: Solves of single samples that missed their tolerance.
        broken: Samples that are not finite.
        reasons: What broke them, layer by layer.
    """

    files: list[Path]
    missed: int
    broken: int
    reasons: str


def sample(path: Path, request: SampleRequest) -> Sampled:
    """Draw samples of a run into a PNG and a npy file; its data are not needed.

    Raises:
        AppError: If the run cannot be read or sampled, or the files are there already.
    """
    display = Display()
    with display.phase("loading"):
        run = load_run(path, checkpoint=request.checkpoint, device=request.device)
    run.say_if_unfinished(display)
    flow = _flow(run)
    files = _free_paths(request.out or run.folder.path / "samples", request.stem)
    seeded = isolated(torch.device(request.device), request.seed, "samples")
    watched = solver_failures(run.step, "sampling")
    with torch.no_grad(), seeded, watched, record(flow) as report:
        using = _limited(flow, request.budget)
        with display.phase("sampling"):
            samples = draw_samples(flow, request.count, request.temperature, using)
        assert run.builders.draw_samples is not None
        run.builders.draw_samples(samples, files[0])
    write_array(files[1], samples)
    missed = sum(block.failures for block in report.summary().values())
    return Sampled(files, missed, report.breakage.samples, str(report.breakage))


def _flow(run: LoadedRun) -> Flow:
    """The distribution of real vectors or images.

    Raises:
        ConfigError: If the run has none that is worth sampling.
    """
    model = run.model.flow if isinstance(run.model, Dequantized) else run.model
    if run.builders.draw_samples is None or not isinstance(model, Flow):
        raise ConfigError(
            f"{run.folder.path} is a run of {run.experiment.name}: there is nothing to sample"
        )
    return model


def _limited(flow: Flow, budget: int | None) -> Settings:
    """Settings with solves of at most that many evaluations."""
    if budget is None:
        return Settings()
    blocks = (m for m in flow.modules() if isinstance(m, FixedPointBlock))
    own = next((block.solve for block in blocks), Solve())
    return Settings(solve=replace(own, solver=Budgeted(budget), on_failure="return"))


def _free_paths(folder: Path, stem: str) -> list[Path]:
    files = [folder / f"{stem}.png", folder / f"{stem}.npy"]
    for file in files:
        if file.exists():
            raise RunFolderError(
                f"{file} exists already and is not overwritten; give another --out or --seed"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return files
