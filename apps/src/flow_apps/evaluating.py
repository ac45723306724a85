"""What a trained run is worth: likelihood with standard error, and diagnostics."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from flow_core.diagnostics import Diagnostics

from flow_apps.loading import Choice, LoadedRun, load_run
from flow_apps.own_data import moved, reading_own_data
from flow_apps.training import Display, Ranks, Tested, final_workers, ranks
from flow_apps.training.failure import solver_failures
from flow_apps.training.files import write_array, write_json
from flow_apps.training.randomness import isolated


@dataclass(frozen=True)
class Evaluation:
    """What was found; diagnostics on the first process only.

    Attributes:
        first: Whether this is the process that talks.
        results: Figures by name.
        diagnostics: Round trips and log-determinants, where the model inverts.
    """

    first: bool
    results: dict[str, object]
    diagnostics: Diagnostics | None


def evaluate(path: Path, *, checkpoint: Choice, device: str, data_root: str | None) -> Evaluation:
    """Test a run and write `evaluation/` into its folder; processes of torchrun share the test.

    Writes `evaluation.json` and, sample by sample, `log_likelihoods.npy` in nats (of a fit:
    `squared_errors.npy`).

    Raises:
        AppError: If the run or the checkpoint cannot be read.
        DataError: If the data are missing or damaged; it says where they were.
    """
    with ranks(device) as here:
        display = Display(visible=here.is_first)
        with display.phase("loading"):
            run = load_run(path, checkpoint=checkpoint, device=str(here.device))
            config = moved(run, data_root)
            with reading_own_data():
                parts = run.builders.parts(config, run.model, frozenset())
        run.say_if_unfinished(display)
        seed = run.config.training.seed
        with torch.no_grad(), solver_failures(run.step, "test"):
            with display.jobs("testing") as advance:
                tested = parts.tests.test(final_workers(here, seed, advance))
            with isolated(here.device, seed, "diagnostics"):
                diagnostics = parts.tests.diagnose() if here.is_first else None
    return _written(run, checkpoint, tested, diagnostics, here, about=parts.tests.about())


def _written(
    run: LoadedRun,
    checkpoint: Choice,
    tested: Tested,
    diagnostics: Diagnostics | None,
    here: Ranks,
    *,
    about: Mapping[str, object],
) -> Evaluation:
    results: dict[str, object] = {"checkpoint": checkpoint, "step": run.step}
    results |= {"repaired": run.repaired, **tested.summary()}
    if here.is_first:
        folder = run.folder.path / "evaluation"
        folder.mkdir(exist_ok=True)
        write_array(folder / f"{tested.name}.npy", tested.values)
        told = {} if diagnostics is None else {"diagnostics": diagnostics.to_dict()}
        write_json(folder / "evaluation.json", results | {**about} | told)
    return Evaluation(here.is_first, results, diagnostics)
