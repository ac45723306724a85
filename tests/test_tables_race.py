"""The race of tables: what is paired, and who sees test rows."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.rivals import Rival
from benchmarks.rivals_of_tables import task
from benchmarks.tables_race import Best, Race, Run, paired, perform


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_paired_differences() -> None:
    first = (np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.0]))  # 1, 1, 3
    second = (np.array([3.0, 3.0]), np.array([0.0, 2.0]))  # 3, 1
    difference, error = paired([first, second])
    assert difference == pytest.approx((5 / 3 + 2) / 2)
    of_rows = math.sqrt((4 / 3) / 3 + 2 / 2) / 2
    assert error == pytest.approx(of_rows)  # above that over divisions, 1/6
    assert paired([first])[1] == pytest.approx(2 / 3)


def test_the_best_weights_are_kept() -> None:
    model = nn.Linear(1, 1, bias=False)

    def log_prob(rows: torch.Tensor) -> torch.Tensor:
        return -(rows.flatten() * model.weight.detach().flatten() - 1).square()

    best = Best(Rival(model, log_prob, log_prob, lambda: None), torch.ones(3, 1))
    for weight in (3.0, 1.5, 2.0, math.nan):
        nn.init.constant_(model.weight, weight)
        best.look()
    best.restore()
    assert float(model.weight.detach()) == 1.5
    assert best.nats == pytest.approx(0.25)


@pytest.mark.usefixtures("threads")
def test_only_final_runs_see_test_rows(tmp_path: Path) -> None:
    for final in (False, True):
        run = Run("residual", "wine", 0.1, 1e-2, 0, final)
        perform(run, tmp_path, None)
        result = json.loads((tmp_path / f"{run.name}.json").read_text())
        assert math.isfinite(result["validation"])
        assert ("nats" in result) == (tmp_path / f"{run.name}.npy").exists() == final
        # What is there is not run again.
        assert Race(tmp_path, None, 0.1, 1).outcome(run) == result


def test_divisions_differ_and_miniboone_needs_its_folder() -> None:
    first, second = (task("wine", division, None).splits().test for division in (0, 1))
    assert first.shape == second.shape
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="--data-root"):
        task("miniboone", 0, None)
