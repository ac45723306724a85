"""What a run writes down about itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from flow_core.record import Report
from torch import Tensor

from flow_apps.training.clock import StepClock
from flow_apps.training.distributed import Ranks
from flow_apps.training.metrics import AT_END, Logger, read_metrics
from flow_apps.training.parts import Certificate, Upkeep
from flow_apps.training.progress import Display
from flow_apps.training.run_folder import RunFolder

_LAST_TESTS = 20
_TESTED = ("nats", "bits_per_dim", "mse")


@dataclass(frozen=True)
class StepResult:
    """What a step leaves for the log: scalars, learning rates, and by turn what solves cost."""

    scalars: dict[str, Tensor]
    rates: dict[str, float]
    reports: dict[str, Report]


class Reporter:
    """Passes numbers to loggers, averaged over the processes.

    Args:
        loggers: Where numbers go; none on other processes than the first.
        ranks: This process among all.
        clock: Of the run.
        step: Where the run begins or goes on.
    """

    def __init__(
        self, loggers: Sequence[Logger], ranks: Ranks, clock: StepClock, step: int
    ) -> None:
        self._loggers = loggers
        self._ranks = ranks
        self._clock = clock
        self._last = (step, clock.training_seconds())

    def step(self, step: int, result: StepResult) -> str:
        """Log a training step, and return a short text about it."""
        means = self._ranks.mean(result.scalars)
        times = {"seconds_per_step": self._recent_seconds(step)}
        costs = {
            f"{turn}{name}": value
            for turn, report in result.reports.items()
            for name, value in effort(report).items()
        }
        self.log(step, "train", means | result.rates | times | costs)
        losses = [f"{name} {value:.4f}" for name, value in means.items() if name.endswith("loss")]
        return "  ".join(losses)

    def log(self, step: int, split: str, values: Mapping[str, object]) -> None:
        """Log the values of a split."""
        for logger in self._loggers:
            logger.log(step, split, values)

    def _recent_seconds(self, step: int) -> float:
        previous, seconds = self._last
        now = self._clock.training_seconds()
        self._last = (step, now)
        return (now - seconds) / max(step - previous, 1)


def effort(report: Report) -> dict[str, object]:
    """What blocks cost, under `solver`, and how much inverse convolutions grew, under `growth`."""
    summary = report.summary()
    solver = {
        name: {
            "evaluations": block.evaluations,
            "residual": block.residual,
            "failures": block.failures,
            "derivative_failures": block.derivative_failures,
        }
        for name, block in summary.items()
        if block.solves
    }
    growth = {name: block.growth for name, block in summary.items() if block.growth is not None}
    return {key: value for key, value in (("solver", solver), ("growth", growth)) if value}


def last_tests(folder: RunFolder) -> dict[str, object]:
    """Means over the last 20 tests of a run: the figure that papers report for toys.

    One that was made because the run ended counts where there is no other, so that a run that is
    extended later has the figure of one that was not.
    """
    tests = [row for row in read_metrics(folder.metrics_path) if row["split"] == "test"]
    regular = [row for row in tests if not row.get(AT_END)] or tests
    return {
        f"test_{name}_last20": sum(float(row[name]) for row in recent) / len(recent)
        for name in _TESTED
        if (recent := [row for row in regular if name in row][-_LAST_TESTS:])
    }


def told(summary: Mapping[str, object], unit: str) -> str:
    """The result of a run in a line: of the weights that were best on validation, if any."""
    best = "best_" if "best_step" in summary else ""
    value, error = summary[f"{best}test_{unit}"], summary[f"{best}standard_error"]
    which = f", weights of step {summary['best_step']}, best on validation" if best else ""
    if unit == "nats":
        return f"test log-likelihood {-cast(float, value):.4f} ± {error:.4f} nats{which}"
    return f"test {unit.replace('_', ' ')} {value:.4f} ± {error:.4f}{which}"


def certify_and_say(upkeep: Upkeep, display: Display) -> Certificate:
    """Let a result keep its promises, and tell what had to be changed for that."""
    certificate = upkeep.certify()
    for name, bound in certificate.repaired.items():
        display.say(f"the certified bound of {name} was {bound:.4f}: scaled down")
    return certificate
