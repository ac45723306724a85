"""Evaluations, figures and the final test: all that looks at weights and changes none."""

import math
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from flow_apps.errors import CheckpointError, ConfigError
from flow_apps.training.checkpoint import load_checkpoint
from flow_apps.training.distributed import Ranks
from flow_apps.training.failure import require_finite_weights, solver_failures
from flow_apps.training.metrics import AT_END
from flow_apps.training.moving_average import tested_weights
from flow_apps.training.parts import Parts, Tested, Upkeep
from flow_apps.training.progress import AdvanceJob, Display
from flow_apps.training.randomness import isolated
from flow_apps.training.reporting import Reporter, certify_and_say, last_tests, told
from flow_apps.training.run_folder import RunFolder
from flow_apps.training.sharing import Workers, silent
from flow_apps.training.state import TrainingState, load_model, require_state

_FIGURE_SHARE = 0.1


@dataclass(frozen=True)
class _Outcome:
    """A final test, and what the summary tells about it."""

    tested: Tested
    results: Mapping[str, object]


class Examiner:
    """Tests the weights of a run.

    Args:
        parts: The experiment.
        upkeep: What keeps the promises of its model.
        state: The weights, and the best value so far.
        folder: Where results go.
        ranks: This process among all; all of them test.
        display: Where the user sees what is done.
    """

    def __init__(
        self,
        parts: Parts,
        upkeep: Upkeep,
        *,
        state: TrainingState,
        folder: RunFolder,
        ranks: Ranks,
        display: Display,
    ) -> None:
        self.parts = parts
        self.upkeep = upkeep
        self.state = state
        self.folder = folder
        self.ranks = ranks
        self.display = display
        self._figure_seconds = 0.0
        self._drawn_step = -1

    def evaluate(self, reporter: Reporter, advance: AdvanceJob) -> bool:
        """Log how good the weights are, and save them if they are the best so far.

        Returns:
            Whether they are the best so far, or tests choose none.
        """
        results = self._evaluated(reporter, advance, {})
        value = self._selected(results)
        if value is None:
            return True
        better = value < self.state.best
        if better:
            self.state.best = value
            self._save_best()
        return better

    def evaluate_end(self, reporter: Reporter) -> None:
        """Log how good the last weights are, where the rhythm of evaluations passed them over.

        They count as the best only where there are no others: a run that is extended later goes on
        as if it had not stopped here.
        """
        with self.display.jobs("evaluating") as advance:
            results = self._evaluated(reporter, advance, {AT_END: True})
        value = self._selected(results)
        if value is not None and math.isfinite(value) and not math.isfinite(self.state.best):
            self._save_best()

    def draw(self, *, last: bool) -> None:
        """Draw, unless pictures would take more than a tenth of the training time."""
        allowed = _FIGURE_SHARE * self.state.clock.training_seconds()
        figures, step = self.parts.figures, self.state.step
        done = self._drawn_step == step
        if figures is None or not self.ranks.is_first or done:
            return
        if self._figure_seconds > allowed and not last:
            return
        started = time.monotonic()
        with self._testing("figures"):
            figures.draw(self.folder.figures, step)
        self._figure_seconds += time.monotonic() - started
        self._drawn_step = step

    def finish(self) -> None:
        """Test the final and the best weights, and write the summary with what a run costs."""
        tests = self.parts.tests
        with self._testing("test"), self.display.jobs("testing the final weights") as advance:
            last = self._tested(advance)
            results: dict[str, object] = {**last.results}
            if self.ranks.is_first:
                results |= {**tests.about(), **tests.audit()}
        results |= self._test_best(last)
        if self.ranks.is_first:
            self.folder.write_tested(f"last_{last.tested.name}", last.tested.values)
            self.folder.write_about(tests.about())
            summary = results | last_tests(self.folder) | self._costs()
            self.folder.write_summary(summary)
            self.display.say(told(summary, last.tested.unit))

    def _evaluated(
        self, reporter: Reporter, advance: AdvanceJob, mark: Mapping[str, object]
    ) -> dict[str, dict[str, float]]:
        results: dict[str, dict[str, float]] = {}
        with self._testing("evaluation"):
            certificate = certify_and_say(self.upkeep, self.display)
            for split in self.parts.tests.splits:
                workers = self._workers("evaluation", self.state.step, advance)
                found = self.parts.tests.evaluate(split, self.state.step, workers)
                results[split] = {name: float(value) for name, value in found.items()}
        for split, values in results.items():
            if values:  # some splits have nothing to tell at every evaluation
                reporter.log(self.state.step, split, {**values, **certificate.row(), **mark})
        return results

    def _selected(self, results: Mapping[str, Mapping[str, float]]) -> float | None:
        """The value by which weights are chosen."""
        if self.parts.tests.selection is None:
            return None
        split, name = self.parts.tests.selection
        if name not in results.get(split, {}):
            known = "; ".join(f"{s}: {', '.join(values)}" for s, values in results.items())
            raise ConfigError(f"selection: no {name} of {split} is evaluated; there are {known}")
        return results[split][name]

    def _save_best(self) -> None:
        if self.ranks.is_first:
            self.folder.checkpoints.save_best(self.state.state_dict())

    @contextmanager
    def _testing(self, activity: str) -> Generator[None, None, None]:
        """Weights as they are tested, no gradients, random numbers of their own."""
        step, loss = self.state.step, self.parts.loss
        require_finite_weights(loss, step)
        seeded = isolated(self.ranks.device, self.state.config.seed, activity, step)
        tested = tested_weights(loss.model, self.upkeep, self.state.average)
        with torch.no_grad(), seeded, solver_failures(step, activity), tested:
            yield

    def _workers(self, activity: str, step: int | str, advance: AdvanceJob) -> Workers:
        return Workers(self.ranks, (self.state.config.seed, activity, step), advance)

    def _tested(self, advance: AdvanceJob) -> _Outcome:
        """The final test of the present weights, after they were made to keep their promises."""
        certificate = certify_and_say(self.upkeep, self.display)
        tested = self.parts.tests.test(final_workers(self.ranks, self.state.config.seed, advance))
        return _Outcome(tested, {**tested.summary(), **certificate.summary()})

    def _test_best(self, last: _Outcome) -> dict[str, object]:
        """The result of the weights that were best on validation, which may be the last."""
        best = self.folder.checkpoints.best
        if self.parts.tests.selection is None or not best.exists():
            return {}
        try:
            state = load_checkpoint(best, self.ranks.device)
            require_state(state, best, self.state.fingerprint)
        except CheckpointError as error:
            self.display.say(f"the best weights are not tested: {error}")
            return {}
        found = last
        if state["step"] != self.state.step:
            with self._testing("test"), self.display.jobs("testing the best weights") as advance:
                load_model(self.parts.loss.model, state, best)
                self.upkeep.prepare_test()
                found = self._tested(advance)
        if self.ranks.is_first:
            self.folder.write_tested(f"best_{found.tested.name}", found.tested.values)
        results: dict[str, object] = {f"best_{k}": value for k, value in found.results.items()}
        return results | {"best_step": int(state["step"])}

    def _costs(self) -> dict[str, object]:
        clock, tolerant = self.state.clock, self.state.config.on_failure != "stop"
        failures = {"failures": self.state.failures} if tolerant else {}
        return {
            "steps": self.state.step,
            **failures,
            "seconds_per_step": clock.seconds_per_step(),
            "cpu_seconds_per_step": clock.cpu_seconds_per_step(),
            "first_steps_seconds": clock.excess_of_first_steps(),
            "parameters": sum(p.numel() for p in self.parts.loss.model.parameters()),
        }


def final_workers(ranks: Ranks, seed: int, advance: AdvanceJob = silent) -> Workers:
    """What shares out a final test; its random numbers follow from the seed of the run alone."""
    return Workers(ranks, (seed, "test"), advance)
