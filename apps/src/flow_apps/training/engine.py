"""The one training loop."""

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from flow_apps.config import TrainingConfig
from flow_apps.errors import TrainingFailure
from flow_apps.training.distributed import Ranks
from flow_apps.training.failure import require_finite_weights, solver_failures
from flow_apps.training.interruption import StopRequest, stop_on_signals
from flow_apps.training.metrics import open_loggers
from flow_apps.training.parts import Parts, Upkeep, joined
from flow_apps.training.progress import Display, StepProgress, Unseen
from flow_apps.training.randomness import isolated, seed_step
from flow_apps.training.recovery import Recovery
from flow_apps.training.reporting import Reporter, StepResult
from flow_apps.training.run_folder import RunFolder
from flow_apps.training.state import TrainingState
from flow_apps.training.step import Stepper
from flow_apps.training.testing import Examiner


class Engine:
    """Trains the parts of an experiment in a run folder.

    A step is: seed, batch, forward, backward, optimizers, and then what is due: evaluation, figures
    and a checkpoint, in this order, so that a checkpoint knows all that came before it.

    Args:
        parts: What is trained; its loss is moved to the device of `ranks`.
        config: Length, optimizers and reporting.
        folder: A folder that `RunFolder` has prepared.
        ranks: This process among all.
        upkeep: What keeps the promises of the model.
        fingerprint: Of the config of the whole experiment, kept in checkpoints.
        display: Where the user sees what is done.
    """

    def __init__(
        self,
        parts: Parts,
        config: TrainingConfig,
        folder: RunFolder,
        ranks: Ranks,
        *,
        upkeep: Upkeep | None = None,
        fingerprint: str = "",
        display: Display | None = None,
    ) -> None:
        self.parts = parts
        self.config = config
        self.folder = folder
        self.ranks = ranks
        self.display = Display(visible=ranks.is_first) if display is None else display
        loss = parts.loss.to(ranks.device)
        self.state = TrainingState(loss, config, ranks.device, fingerprint)
        self.upkeep = Upkeep() if upkeep is None else upkeep
        self.examiner = Examiner(
            parts,
            self.upkeep,
            state=self.state,
            folder=folder,
            ranks=ranks,
            display=self.display,
        )
        self.recovery = Recovery(self.state, ranks, self.display)
        self._saved_step, self._saved_time = -1, time.monotonic()

    def run(self) -> bool:
        """Train to the end of the config, from where the state is.

        Returns:
            Whether the end was reached; False if someone asked to stop.

        Raises:
            TrainingFailure: If a step gives no usable numbers, naming layer, step and samples, and
                the config says that the run ends then.
        """
        self.parts.loss.train()
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signals())
            reporter = stack.enter_context(self._reporter())
            if self.state.step == 0:
                self._begin()
            self.recovery.before_run()
            self._saved_step, self._saved_time = self.state.step, time.monotonic()
            self._train(reporter, stop)
            self._save()
            finished = self._last
            if finished:
                self._finish(reporter)
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
        """Step 0: data-dependent initialisation on the first batches, then a checkpoint.

        Each process has its share of it; layers take statistics of all shares together.
        """
        seeded = isolated(self.ranks.device, self.config.seed, "initialize")
        with self.display.phase("initialising"), torch.no_grad(), seeded:
            share = self.ranks.share(self.config.batch_size)
            steps = range(1, self.config.initial_batches + 1)
            batch = joined([self.parts.data.batch(step, share) for step in steps])
            batch = batch.to(self.ranks.device)
            with solver_failures(0, "initialisation"):
                self.parts.loss.initialize(batch)
        self.state.start_average()
        self._save()

    def _module(self) -> nn.Module:
        """The loss as it is called."""
        if self.ranks.world == 1:
            return self.parts.loss
        turns = {optimizer.turn for optimizer in self.config.optimizers}
        return DistributedDataParallel(self.parts.loss, find_unused_parameters=len(turns) > 1)

    def _train(self, reporter: Reporter, stop: StopRequest) -> None:
        if self._last:
            return
        stepper = Stepper(
            self.parts,
            self.upkeep,
            module=self._module(),
            state=self.state,
            ranks=self.ranks,
            stop=stop,
        )
        clock = self.state.clock
        clock.start()
        self._first_step(stepper, reporter)
        with self.display.steps(self.config.iterations, self.state.step) as progress:
            while not self._last and not stepper.stopping:
                self._step(stepper, reporter, progress)
        clock.stop()

    def _first_step(self, stepper: Stepper, reporter: Reporter) -> None:
        """The first step of a process, which loads and compiles what the others need."""
        started = time.monotonic()
        compiling = "compiling and " if self.config.compile else ""
        with self.display.phase(f"{compiling}taking the first step"):
            self._step(stepper, reporter, Unseen())
        seconds = time.monotonic() - started
        self.display.say(f"training from step {self.state.step}, the first took {seconds:.1f} s")

    def _step(self, stepper: Stepper, reporter: Reporter, progress: StepProgress) -> None:
        step = self.state.step + 1
        seed_step(self.config.seed, step, self.ranks.rank, self.ranks.device)
        logged = step % self.config.log_every == 0
        result = self._result(stepper, step, reporter, logged=logged)
        self.state.step = step
        self.state.clock.count_step()
        if logged and result is not None:
            progress.step(step, reporter.step(step, result))
        if self._something_due():
            with self.state.clock.paused():
                self._between_steps(reporter, progress)

    def _result(
        self, stepper: Stepper, step: int, reporter: Reporter, *, logged: bool
    ) -> StepResult | None:
        """What came of a step, or None if it failed and the run goes on without it."""
        self.recovery.before_step()
        try:
            return stepper(step, logged=logged)
        except TrainingFailure as failure:
            self.recovery.after_failure(failure, step, reporter)
        return None

    @property
    def _last(self) -> bool:
        return self.state.step >= self.config.iterations

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0

    def _checkpoint_due(self) -> bool:
        return time.monotonic() - self._saved_time >= self.config.checkpoint_seconds

    def _something_due(self) -> bool:
        due = self._due(self.config.evaluate_every) or self._due(self.config.figures_every)
        return due or self._checkpoint_due()

    def _between_steps(self, reporter: Reporter, progress: StepProgress) -> None:
        if self._due(self.config.evaluate_every):
            good = self.examiner.evaluate(reporter, progress.job)
            self.recovery.after_evaluation(good=good)
        if self._due(self.config.figures_every):
            self.examiner.draw(last=self._last)
        if self._checkpoint_due():
            self._save()

    def _save(self) -> None:
        require_finite_weights(self.parts.loss, self.state.step)
        if self.ranks.is_first and self._saved_step != self.state.step:
            self.folder.checkpoints.save(self.state.step, self.state.state_dict())
        self._saved_step, self._saved_time = self.state.step, time.monotonic()

    def _finish(self, reporter: Reporter) -> None:
        """What a run owes at its end, whether it was trained here or only its test is missing."""
        if not self._due(self.config.evaluate_every):
            self.examiner.evaluate_end(reporter)
        self.examiner.draw(last=True)
        self.examiner.finish()
