"""What a trained run is worth: likelihood with standard error, and diagnostics."""

import io
from pathlib import Path

import numpy as np
import torch
from flow_core.diagnostics import Diagnostics, diagnose
from torch import Tensor

from flow_apps.experiments import DensityObjective, InvertibleObjective
from flow_apps.loading import Choice, LoadedRun, load_run
from flow_apps.training.failure import solver_failures
from flow_apps.training.files import write_atomic, write_json
from flow_apps.training.randomness import isolated

_DIAGNOSED = 200
_EXACT_UP_TO = 64


def evaluate(
    path: Path, *, checkpoint: Choice, device: str, data_root: str | None
) -> tuple[dict[str, object], Diagnostics]:
    """Test a run and write `evaluation/` into its folder.

    Writes `evaluation.json` and, sample by sample, `log_likelihoods.npy` in nats (of a fit:
    `squared_errors.npy`).

    Raises:
        AppError: If the run or the checkpoint cannot be read.
        DataError: If the data are missing or damaged.
    """
    run = load_run(path, checkpoint=checkpoint, device=device, data_root=data_root)
    objective = run.objective
    with (
        torch.no_grad(),
        isolated(torch.device(device), *_seed(run)),
        solver_failures(run.step, "test"),
    ):
        name, values, merits = _per_sample(objective)
    results: dict[str, object] = {"checkpoint": checkpoint, "step": run.step}
    results["repaired"] = run.repaired
    results |= objective.mean_and_error(merits)
    diagnostics = _diagnostics(objective)
    folder = run.folder.path / "evaluation"
    folder.mkdir(exist_ok=True)
    _write_array(folder / f"{name}.npy", values)
    write_json(folder / "evaluation.json", results | {"diagnostics": diagnostics.to_dict()})
    return results, diagnostics


def _seed(run: LoadedRun) -> tuple[int | str, ...]:
    """The random numbers of the final test, so that its figure comes out again."""
    return run.config.training.seed, "test", run.step


def _per_sample(objective: InvertibleObjective) -> tuple[str, Tensor, Tensor]:
    """What is written, and the figure of merit that follows from it."""
    if isinstance(objective, DensityObjective):
        values = objective.log_likelihoods("test", objective.test_draws)
        return "log_likelihoods", values, objective.merit(values)
    values = objective.per_sample("test")
    return "squared_errors", values, values


def _diagnostics(objective: InvertibleObjective) -> Diagnostics:
    x = objective.test_points(_DIAGNOSED)
    small = x[0].numel() <= _EXACT_UP_TO
    return diagnose(objective.bijection, x, exact_samples=8 if small else 2, chunk=_EXACT_UP_TO)


def _write_array(path: Path, values: Tensor) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values.detach().cpu().numpy())
    write_atomic(path, buffer.getvalue())
