"""How good the flow of a table is."""

from collections.abc import Mapping
from math import hypot
from pathlib import Path

import torch
from flow_core.diagnostics import Diagnostics
from flow_core.distributions import Flow
from flow_core.record import record
from flow_data import TableSplits
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.tabular.config import TableConfig
from flow_apps.experiments.tabular.data import rows_under_test
from flow_apps.figures.histogram import draw_histograms
from flow_apps.figures.pairs import draw_pairs
from flow_apps.parts.invertibility import Invertibility
from flow_apps.parts.merit import mean_of
from flow_apps.parts.sampling import draw_samples
from flow_apps.parts.settings import SplitSettings
from flow_apps.training import Tested, Tests, Workers

_DRAWN = 2000


class TabularTests(Tests):
    """Mean negative log-likelihood in nats of standardised rows.

    Args:
        model: Their distribution.
        table: The rows.
        config: How many of them are tested.
        using: What evaluations do their work with.
    """

    splits = ("validation",)
    selection = ("validation", "nats")

    def __init__(
        self, model: Flow, table: TableSplits, config: TableConfig, using: SplitSettings
    ) -> None:
        self.model = model
        self.table = table
        self.config = config
        self.using = using
        self.invertibility = Invertibility(model.bijection, self._points, using.test)

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Nats, and their standard error over rows."""
        return mean_of("nats", -self._log_prob(split, workers))

    def test(self, workers: Workers) -> Tested:
        """Every test row."""
        log_prob = self._log_prob("test", workers)
        return Tested("log_likelihoods", log_prob, "nats", -log_prob)

    def about(self) -> Mapping[str, object]:
        """Names of the columns, what rows were standardised by, and how many there are.

        Log-likelihoods in the units of the table are those of the file less `log_scale`.
        """
        table = self.table
        parts = {"train": table.train, "validation": table.validation, "test": table.test}
        return {
            "table": table.name,
            "rows": {name: len(rows) for name, rows in parts.items()},
            "columns": list(table.columns),
            "mean": table.mean.tolist(),
            "deviation": table.deviation.tolist(),
            "log_scale": table.log_scale,
        }

    def audit(self) -> Mapping[str, object]:
        """Round trip, certified bounds, and what estimates of log-determinants leave open."""
        error = {"log_det_standard_error": self._log_det_error()}
        return {**error, **self.invertibility.audit()}

    def diagnose(self) -> Diagnostics:
        """Round trips, log-determinants and bounds, of a few rows."""
        return self.invertibility.diagnose()

    def rows(self, split: str) -> Float[Tensor, "rows columns"]:
        """The rows of a split that are tested, where the model is."""
        rows = rows_under_test(self.table, self.config, split)
        return rows.to(next(self.model.parameters()).device)

    def log_prob(self, rows: Float[Tensor, "rows columns"], split: str) -> Float[Tensor, " rows"]:
        """Nats, by the estimator of that split."""
        return self.model.log_prob(rows, using=self.using.of(split))

    def _log_det_error(self) -> float:
        """Nats of one row, root mean square; 0 where log-determinants are exact."""
        with record(self.model) as report:
            self.log_prob(self._points(self.config.test_batch_size), "test")
        errors = [block.log_det_error for block in report.summary().values()]
        return hypot(*(error for error in errors if error is not None))

    def _points(self, count: int) -> Tensor:
        return self.rows("test")[:count]

    def _log_prob(self, split: str, workers: Workers) -> Tensor:
        parts = torch.split(self.rows(split), self.config.test_batch_size)
        return workers.each(split, parts, lambda rows: self.log_prob(rows, split))


class TabularFigures:
    """Pairs of columns of data and samples, and log-likelihoods of what is and is not trained on.

    Test rows are in none of them.

    Args:
        tests: Gives the model, and rows.
    """

    def __init__(self, tests: TabularTests) -> None:
        self.tests = tests

    def draw(self, folder: Path, step: int) -> None:
        """Two pictures, in the units of the table and in nats of standardised rows."""
        tests, table = self.tests, self.tests.table
        train, held_out = (tests.rows(split)[:_DRAWN] for split in ("train", "validation"))
        samples = draw_samples(tests.model, len(train), using=tests.using.test)
        shown = {"data": table.in_units(train), "samples": table.in_units(samples)}
        draw_pairs(shown, table.columns, folder / f"pairs_{step:06d}.png")
        found = {
            "training rows": tests.log_prob(train, "train"),
            "validation": tests.log_prob(held_out, "validation"),
        }
        path = folder / f"log_likelihoods_{step:06d}.png"
        draw_histograms(found, "log-likelihood of a row / nats", path)
