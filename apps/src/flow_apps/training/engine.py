"""The one training loop."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import cast

import torch
from flow_core.record import Report, record
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flow_apps.errors import CheckpointError, TrainingFailure
from flow_apps.training.checkpoint import load_checkpoint
from flow_apps.training.compilation import compile_objective
from flow_apps.training.config import TrainingConfig
from flow_apps.training.distributed import Ranks
from flow_apps.training.failure import (
    diverged,
    explain_inputs,
    explain_nonfinite,
    require_finite_weights,
    solver_failures,
)
from flow_apps.training.interruption import StopRequest, stop_on_signals
from flow_apps.training.metrics import open_loggers
from flow_apps.training.moving_average import tested_weights
from flow_apps.training.objective import Batch, Objective
from flow_apps.training.progress import Advance, progress, say, working
from flow_apps.training.randomness import isolated, seed_step
from flow_apps.training.reporting import Reporter, StepResult, last_tests, repair_and_say
from flow_apps.training.run_folder import RunFolder
from flow_apps.training.state import TrainingState, load_tested_weights

_FIGURE_SHARE = 0.1


class Engine:
    """Trains an objective in a run folder.

    A step is: seed, batch, forward, backward, optimizer, and then what is due: evaluation, figures
    and a checkpoint, in this order, so that a checkpoint knows all that came before it.

    Args:
        objective: What is trained; it is moved to the device of `ranks`.
        config: Length, optimizer and reporting.
        folder: A folder that `RunFolder` has prepared.
        ranks: This process among all.
    """

    def __init__(
        self, objective: Objective, config: TrainingConfig, folder: RunFolder, ranks: Ranks
    ) -> None:
        self.objective = objective.to(ranks.device)
        self.config = config
        self.folder = folder
        self.ranks = ranks
        self.state = TrainingState(self.objective, config, ranks.device)
        self._compiled = False
        self._stopping = False
        self._figure_seconds = 0.0
        self._saved_step, self._saved_time = -1, time.monotonic()

    def run(self) -> bool:
        """Train to the end of the config, from where the state is.

        Returns:
            Whether the end was reached; False if someone asked to stop.

        Raises:
            TrainingFailure: If a step gives no usable numbers, naming layer, step and samples.
        """
        self.objective.train()
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signals())
            reporter = stack.enter_context(self._reporter())
            if self.state.step == 0:
                self._begin()
            self._saved_step, self._saved_time = self.state.step, time.monotonic()
            visible = self.ranks.is_first
            bar = progress(self.config.iterations, self.state.step, visible=visible)
            self._loop(self._wrapped(), reporter, stop, stack.enter_context(bar))
            self._save()
        finished = self.state.step >= self.config.iterations
        if finished:
            self._finish()
        return finished

    @contextmanager
    def _reporter(self) -> Generator[Reporter, None, None]:
        if not self.ranks.is_first:
            yield Reporter((), self.ranks, self.state.clock, self.state.step)
            return
        logging = open_loggers(self.folder.path, self.config, first_step=self.state.step + 1)
        with logging as loggers:
            yield Reporter(loggers, self.ranks, self.state.clock, self.state.step)

    def _begin(self) -> None:
        """Step 0: data-dependent initialisation on the whole first batch, then a checkpoint."""
        with torch.no_grad(), isolated(self.ranks.device, self.config.seed, "initialize"):
            batch = tuple(t.to(self.ranks.device) for t in self.objective.batch(1))
            with solver_failures(0, "initialisation"):
                self.objective.initialize(batch)
        self.state.start_average()
        self._save()

    def _wrapped(self) -> nn.Module:
        if self.config.compile:
            size = self.config.batch_size // self.ranks.world
            visible = self.ranks.is_first
            self._compiled = compile_objective(self.objective, size, visible=visible)
        if self.ranks.world == 1:
            return self.objective
        return DistributedDataParallel(self.objective)

    def _loop(
        self, module: nn.Module, reporter: Reporter, stop: StopRequest, advance: Advance
    ) -> None:
        clock = self.state.clock
        clock.start()
        while self.state.step < self.config.iterations and not self._stopping:
            step = self.state.step + 1
            result = self._train_step(module, step, stop)
            self.state.step = step
            clock.count_step()
            if self._due(self.config.log_every):
                advance(step, reporter.step(step, result))
            if self._something_due():
                with clock.paused():
                    self._between_steps(reporter)
        clock.stop()

    def _train_step(self, module: nn.Module, step: int, stop: StopRequest) -> StepResult:
        seed_step(self.config.seed, step, self.ranks.rank, self.ranks.device)
        rate = self.state.set_learning_rate(step)
        self.state.optimizer.zero_grad(set_to_none=True)
        batch = self.ranks.share(self.objective.batch(step))
        logged = step % self.config.log_every == 0
        loss, scalars, report = self._forward(module, batch, step, stop, logged=logged)
        self._backward(loss, report, step)
        self.objective.before_optimizer_step(step)
        scalars |= {"loss": loss.detach()} | self._clip(logged=logged)
        self.state.optimizer.step()
        if self.state.average is not None:
            self.state.average.update_parameters(self.objective.model)
        self._after_optimizer_step(step)
        return StepResult(scalars, rate, report)

    def _backward(self, loss: Tensor, report: Report, step: int) -> None:
        """Gradients of all processes; a failure of any process ends all of them together."""
        failure = None
        try:
            with solver_failures(step, "backward pass"):
                torch.autograd.backward(loss)
                report.raise_deferred()
        except TrainingFailure as error:
            failure = error
        (failed,) = self.ranks.any(failure is not None)
        self._raise_together(failure, step, failed=failed)

    def _raise_together(self, failure: TrainingFailure | None, step: int, *, failed: bool) -> None:
        rank, world = self.ranks.rank, self.ranks.world
        if failure is not None and world > 1:
            raise TrainingFailure(
                f"{failure} (sample i of process {rank} is number {rank} + {world}·i of the batch)"
            ) from failure
        if failure is not None:
            raise failure
        if failed:
            raise TrainingFailure(f"step {step}: another process failed, see its message")

    def _after_optimizer_step(self, step: int) -> None:
        try:
            self.objective.after_optimizer_step(step)
        except ValueError as error:
            require_finite_weights(self.objective, step)
            raise diverged(step, error) from error

    def _forward(
        self, module: nn.Module, batch: Batch, step: int, stop: StopRequest, *, logged: bool
    ) -> tuple[Tensor, dict[str, Tensor], Report]:
        """Loss of this process' share; a failure of any process ends all of them together."""
        failure, outcome = None, None
        try:
            with solver_failures(step, "forward pass"):
                outcome = self._recorded(module, batch)
            self._check_loss(outcome[0], batch, step, logged=logged)
        except TrainingFailure as error:
            failure = explain_inputs(batch, step) or error
        failed, self._stopping = self.ranks.any(failure is not None, stop.requested)
        self._raise_together(failure, step, failed=failed)
        assert outcome is not None
        return outcome

    def _recorded(
        self, module: nn.Module, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor], Report]:
        forward = cast(Callable[[Batch], tuple[Tensor, dict[str, Tensor]]], module)
        # A process that raised inside its backward pass would leave the others waiting there.
        with record(self.objective.model, defer=True) as report:
            loss, scalars = forward(batch)
        return loss, scalars, report

    def _check_loss(self, loss: Tensor, batch: Batch, step: int, *, logged: bool) -> None:
        """Look at the loss: each step on the CPU, else only where the device is waited for."""
        if (loss.device.type == "cpu" or logged) and not bool(torch.isfinite(loss)):
            raise TrainingFailure(explain_nonfinite(self.objective, batch, step))

    def _clip(self, *, logged: bool) -> dict[str, Tensor]:
        """Clip the gradient if the config says so; its norm where it was needed."""
        clip = self.config.gradient_clip
        if clip is None and not logged:
            return {}
        gradients = [p.grad for p in self.objective.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if clip is not None:
            nn.utils.clip_grads_with_norm_(self.objective.parameters(), clip, norm, foreach=True)
        return {"gradient_norm": norm}

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0

    @property
    def _last(self) -> bool:
        return self.state.step == self.config.iterations

    def _checkpoint_due(self) -> bool:
        return time.monotonic() - self._saved_time >= self.config.checkpoint_seconds

    def _something_due(self) -> bool:
        due = self._due(self.config.evaluate_every) or self._due(self.config.figures_every)
        return due or self._last or self._checkpoint_due()

    def _between_steps(self, reporter: Reporter) -> None:
        if self._last or self._due(self.config.evaluate_every):
            self._evaluate(reporter)
        if self._last or self._due(self.config.figures_every):
            self._draw()
        if self._checkpoint_due():
            self._save()

    @contextmanager
    def _testing(self, activity: str) -> Generator[None, None, None]:
        """Weights as they are tested, no gradients, random numbers of their own."""
        step = self.state.step
        require_finite_weights(self.objective, step)
        seeded = isolated(self.ranks.device, self.config.seed, activity, step)
        tested = tested_weights(self.objective, self.state.average)
        with torch.no_grad(), seeded, solver_failures(step, activity), tested:
            yield

    def _evaluate(self, reporter: Reporter) -> None:
        results: dict[str, dict[str, float]] = {}
        with self._testing("evaluation"):
            for split in self.objective.splits:
                results[split] = self.objective.evaluate(split, self.state.step)
        for split, values in results.items():
            reporter.log(self.state.step, split, values)
        self._keep_best(results)

    def _keep_best(self, results: dict[str, dict[str, float]]) -> None:
        if self.objective.selection is None:
            return
        split, name = self.objective.selection
        if results[split][name] < self.state.best:
            self.state.best = results[split][name]
            if self.ranks.is_first:
                self.folder.checkpoints.save_best(self.state.state_dict())

    def _draw(self) -> None:
        """Draw, unless pictures would take more than a tenth of the training time."""
        allowed = _FIGURE_SHARE * self.state.clock.training_seconds()
        if not self.ranks.is_first or (self._figure_seconds > allowed and not self._last):
            return
        started = time.monotonic()
        with self._testing("figures"):
            self.objective.figures(self.folder.figures, self.state.step)
        self._figure_seconds += time.monotonic() - started

    def _save(self) -> None:
        require_finite_weights(self.objective, self.state.step)
        if self.ranks.is_first and self._saved_step != self.state.step:
            self.folder.checkpoints.save(self.state.step, self.state.state_dict())
        self._saved_step, self._saved_time = self.state.step, time.monotonic()

    def _finish(self) -> None:
        """Test the final and the best weights, and write the summary."""
        with self._testing("test"), self._working("testing the final weights"):
            repaired = self._repair()
            tested = self.objective.test(self.state.step) | {"repaired": repaired}
            results: dict[str, object] = {**tested}
            results |= self.objective.audit()
        results |= self._test_best(tested)
        if self.ranks.is_first:
            summary = results | last_tests(self.folder) | self._costs()
            self.folder.write_summary(summary)

    def _test_best(self, last: Mapping[str, object]) -> dict[str, object]:
        """The result of the weights that were best on validation, which may be the last."""
        if self.objective.selection is None or not math.isfinite(self.state.best):
            return {}
        try:
            best = load_checkpoint(self.folder.checkpoints.best, self.ranks.device)
        except CheckpointError as error:
            say(f"the best weights are not tested: {error}", visible=self.ranks.is_first)
            return {}
        values: Mapping[str, object] = last
        if best["step"] != self.state.step:
            with self._testing("test"), self._working("testing the best weights"):
                load_tested_weights(self.objective, best)
                repaired = self._repair()
                values = self.objective.test(self.state.step) | {"repaired": repaired}
        results: dict[str, object] = {f"best_{name}": value for name, value in values.items()}
        return results | {"best_step": int(best["step"])}

    def _repair(self) -> dict[str, float]:
        """What the objective had to change to keep its promises; say so."""
        return repair_and_say(self.objective, visible=self.ranks.is_first)

    def _working(self, activity: str) -> AbstractContextManager[None]:
        return working(activity, visible=self.ranks.is_first)

    def _costs(self) -> dict[str, object]:
        clock = self.state.clock
        return {
            "steps": self.state.step,
            "seconds_per_step": clock.seconds_per_step(),
            "cpu_seconds_per_step": clock.cpu_seconds_per_step(),
            "compile_seconds": clock.excess_of_first_steps() if self._compiled else 0.0,
            "parameters": sum(p.numel() for p in self.objective.model.parameters()),
        }
