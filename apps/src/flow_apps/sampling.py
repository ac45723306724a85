"""Samples of a trained run."""

import io
import math
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from flow_core.record import record
from flow_core.settings import Settings
from flow_solvers import BoundMap, Fallback, Solution, Tolerance, default_solver
from torch import Tensor

from flow_apps.errors import ConfigError, RunFolderError
from flow_apps.experiments import DensityObjective
from flow_apps.loading import Choice, load_run
from flow_apps.training.failure import solver_failures
from flow_apps.training.files import write_atomic
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
        data_root: Where the data are now; None for where they were.
        out: Folder for the files; None for `samples/` in the run folder.
    """

    count: int = 64
    temperature: float = 1.0
    budget: int | None = None
    seed: int = 0
    checkpoint: Choice = "last"
    device: str = "cpu"
    data_root: str | None = None
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


def sample(path: Path, request: SampleRequest) -> tuple[list[Path], int, int]:
    """Draw samples of a run into a PNG and a npy file.

    Returns:
        The files, how many solves of single samples missed their tolerance, and how many samples
        are not finite.

    Raises:
        AppError: If the run cannot be read or sampled, or the files are there already.
    """
    run = load_run(
        path,
        checkpoint=request.checkpoint,
        device=request.device,
        data_root=request.data_root,
    )
    objective = run.objective
    if not isinstance(objective, DensityObjective):
        raise ConfigError(f"{path} is a fit of a function: there is nothing to sample")
    files = _free_paths(request.out or run.folder.path / "samples", request.stem)
    using = _limited(objective, request.budget)
    seeded = isolated(torch.device(request.device), request.seed, "samples")
    watched = solver_failures(run.step, "sampling")
    with torch.no_grad(), seeded, watched, record(objective.model) as report:
        samples = objective.sample(request.count, request.temperature, using)
        objective.draw_samples(samples, files[0])
    buffer = io.BytesIO()
    np.save(buffer, samples.cpu().numpy())
    write_atomic(files[1], buffer.getvalue())
    missed = sum(block.failures for block in report.summary().values())
    broken = int((~torch.isfinite(samples)).flatten(1).any(1).sum())
    return files, missed, broken


def _limited(objective: DensityObjective, budget: int | None) -> Settings:
    """The settings of the objective, with solves of at most that many evaluations."""
    if budget is None:
        return objective.using
    own = objective.contraction.solve()
    solve = replace(own, solver=Budgeted(budget), on_failure="return")
    return replace(objective.using, solve=solve)


def _free_paths(folder: Path, stem: str) -> list[Path]:
    files = [folder / f"{stem}.png", folder / f"{stem}.npy"]
    for file in files:
        if file.exists():
            raise RunFolderError(
                f"{file} exists already and is not overwritten; give another --out or --seed"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return files
