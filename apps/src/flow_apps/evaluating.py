"""What a trained run is worth: likelihood with standard error, and diagnostics."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from flow_core.diagnostics import Diagnostics

from flow_apps.config import to_json
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.errors import ConfigError
from flow_apps.import_data import images_of_import
from flow_apps.importing import imported_images, is_imported
from flow_apps.loading import Choice, LoadedRun, load_run
from flow_apps.own_data import moved, reading_own_data
from flow_apps.parts.image_sets import load_images
from flow_apps.parts.images import ImageTests
from flow_apps.parts.settings import split_settings
from flow_apps.training import Display, Ranks, Tested, Tests, final_workers, ranks
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


@dataclass(frozen=True)
class _Tested:
    """A model with its tests, from a run or from an import.

    Attributes:
        folder: Of it.
        tests: Its tests.
        facts: What is told of its weights.
        step: Of its weights; 0 of an import.
        seed: Of what is random in tests.
    """

    folder: Path
    tests: Tests
    facts: Mapping[str, object]
    step: int
    seed: int


def evaluate(
    path: Path,
    *,
    checkpoint: Choice,
    device: str,
    data_root: str | None,
    images: Mapping[str, object] | None = None,
) -> Evaluation:
    """Test a run and write `evaluation/` into its folder; processes of torchrun share the test.

    Writes `evaluation.json` and, sample by sample, `log_likelihoods.npy` in nats (of a fit:
    `squared_errors.npy`).

    Args:
        path: A run folder, or that of an imported checkpoint.
        checkpoint: Which weights of a run.
        device: As torch writes it.
        data_root: Where the data are now; None for where they were.
        images: Of an import the set that it is tested on, as fields of `ImagesConfig`.

    Raises:
        AppError: If the run or the checkpoint cannot be read.
        DataError: If the data are missing or damaged; it says where they were.
    """
    with ranks(device) as here:
        display = Display(visible=here.is_first)
        with display.phase("loading"):
            if is_imported(path):
                tested = _of_import(path, str(here.device), data_root, images or {})
            else:
                _require_none(path, images)
                run = load_run(path, checkpoint=checkpoint, device=str(here.device))
                tested = _of_run(run, checkpoint, data_root)
                run.say_if_unfinished(display)
        with torch.no_grad(), solver_failures(tested.step, "test"):
            with display.jobs("testing") as advance:
                results = tested.tests.test(final_workers(here, tested.seed, advance))
            with isolated(here.device, tested.seed, "diagnostics"):
                diagnostics = tested.tests.diagnose() if here.is_first else None
    return _written(tested, results, diagnostics, here)


def _require_none(path: Path, images: Mapping[str, object] | None) -> None:
    if images:
        raise ConfigError(
            f"set: expected none, {path} is a run, which is tested on its own images; apps/ood.py "
            "measures it on others"
        )


def _of_run(run: LoadedRun, checkpoint: Choice, data_root: str | None) -> _Tested:
    with reading_own_data():
        parts = run.builders.parts(moved(run, data_root), run.model, frozenset())
    facts = {"checkpoint": checkpoint, "step": run.step, "repaired": run.repaired}
    return _Tested(run.folder.path, parts.tests, facts, run.step, run.config.training.seed)


def _of_import(
    path: Path, device: str, data_root: str | None, images: Mapping[str, object]
) -> _Tested:
    model = imported_images(path, device)
    config = images_of_import(model, images, data_root)
    using = split_settings(EstimatorConfig(), model.flow.event_shape.numel())
    tests = ImageTests(model, load_images(config), config, using)
    facts = {"checkpoint": "imported", "images": to_json(config)}
    return _Tested(path, tests, facts, 0, 0)


def _written(
    tested: _Tested, found: Tested, diagnostics: Diagnostics | None, here: Ranks
) -> Evaluation:
    results: dict[str, object] = {**tested.facts, **found.summary()}
    if here.is_first:
        folder = tested.folder / "evaluation"
        folder.mkdir(exist_ok=True)
        write_array(folder / f"{found.name}.npy", found.values)
        told = {} if diagnostics is None else {"diagnostics": diagnostics.to_dict()}
        about = tested.tests.about()
        write_json(folder / "evaluation.json", results | {**about} | told)
    return Evaluation(here.is_first, results, diagnostics)
