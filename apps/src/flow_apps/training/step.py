"""One training step: forward and backward pass and optimizers of every turn."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from flow_core.record import Report, record
from flow_data import Share
from torch import Tensor, nn

from flow_apps.errors import FailureElsewhere, TrainingFailure
from flow_apps.training.distributed import Ranks
from flow_apps.training.failure import (
    diverged,
    explain_gradient,
    explain_inputs,
    explain_nonfinite,
    require_finite_weights,
    solver_failures,
)
from flow_apps.training.interruption import StopRequest
from flow_apps.training.optimizers import AssignedOptimizer
from flow_apps.training.parts import Batch, Parts, Scalars, Upkeep
from flow_apps.training.reporting import StepResult
from flow_apps.training.state import TrainingState


@dataclass(frozen=True)
class _Turn:
    """Optimizers that take a step on one loss."""

    name: str
    optimizers: list[AssignedOptimizer]

    def parameters(self) -> list[nn.Parameter]:
        """What its optimizers change."""
        return [p for assigned in self.optimizers for p in assigned.parameters]

    def prefix(self) -> str:
        """Of the names of its numbers in the log; none where there is one turn without a name."""
        return f"{self.name}/" if self.name else ""


class Stepper:
    """Takes training steps.

    Args:
        parts: The experiment.
        upkeep: What keeps the promises of its model.
        module: Its loss, as it is called: itself, or DDP around it.
        state: What a step changes.
        ranks: This process among all.
        stop: Asked for at every step, by all processes together.
    """

    def __init__(
        self,
        parts: Parts,
        upkeep: Upkeep,
        *,
        module: nn.Module,
        state: TrainingState,
        ranks: Ranks,
        stop: StopRequest,
    ) -> None:
        self.parts = parts
        self.upkeep = upkeep
        self.module = module
        self.state = state
        self.ranks = ranks
        self.stop = stop
        self.stopping = False
        self._losses: dict[str, float] = {}
        self._share = ranks.share(state.config.batch_size)

    def __call__(self, step: int, *, logged: bool) -> StepResult:
        """Take a step.

        Args:
            step: Its number, from 1.
            logged: Whether its numbers are going to be read.

        Raises:
            TrainingFailure: If it gives no usable numbers, naming layer, step and samples.
        """
        drawn = self.parts.data.batch(step, self._share)
        batch = drawn.to(self.ranks.device)._replace(step=step)
        result = StepResult({}, {}, {})
        self._losses = {}
        for turn in self._turns(step):
            result = self._turn(turn, batch, step, result, logged=logged)
        if self._tolerant:
            require_finite_weights(self.parts.loss, step)
        if self.state.average is not None:
            self.state.average.update_parameters(self.parts.loss.model)
        self.state.lowest.update(self._losses)
        return result

    @property
    def _tolerant(self) -> bool:
        """Whether a run goes on without steps that fail, so that none may be taken half."""
        return self.state.config.on_failure != "stop"

    def _turns(self, step: int) -> Iterator[_Turn]:
        """The turns of a step, in the order of the config."""
        due = [o for o in self.state.optimizers if step % o.config.every == 0]
        for name in dict.fromkeys(assigned.config.turn for assigned in due):
            yield _Turn(name, [o for o in due if o.config.turn == name])

    def _turn(
        self, turn: _Turn, batch: Batch, step: int, before: StepResult, *, logged: bool
    ) -> StepResult:
        iterations, prefix = self.state.config.iterations, turn.prefix()
        lowered = self.state.lowered
        rates = [o.set_learning_rate(step, iterations, lowered) for o in turn.optimizers]
        self.parts.loss.zero_grad(set_to_none=True)
        scalars, report = self._gradients(batch, turn, step, logged=logged)
        self._require_low(scalars["loss"], turn, step)
        self.upkeep.before_optimizer_step(step)
        scalars |= self._clip(turn, step, logged=logged)
        for assigned in turn.optimizers:
            assigned.optimizer.step()
        self._restore(step)
        named = {f"{prefix}{name}": value for name, value in scalars.items()}
        return StepResult(
            before.scalars | named,
            before.rates | _rates(prefix, rates),
            before.reports | {prefix: report},
        )

    def _gradients(
        self, batch: Batch, turn: _Turn, step: int, *, logged: bool
    ) -> tuple[Scalars, Report]:
        """Gradients of the mean over the batch, its scalars, and what the last pass cost."""
        passes = self.state.config.accumulate
        found, report = list[Scalars](), Report()
        for part in (Share(k, passes) for k in range(passes)):
            own = batch.part(part)
            loss, scalars, report = self._forward(own, part, turn, step, logged=logged)
            self._backward(loss / passes, part, report, step)
            found.append(scalars | {"loss": loss.detach()})
        return {k: torch.stack([one[k] for one in found]).mean(0) for k in found[0]}, report

    def _restore(self, step: int) -> None:
        """What must hold for the new weights."""
        try:
            self.upkeep.after_optimizer_step(step)
        except ValueError as error:
            require_finite_weights(self.parts.loss, step)
            raise diverged(step, error) from error
        self.parts.loss.after_optimizer_step()

    def _forward(
        self, batch: Batch, part: Share, turn: _Turn, step: int, *, logged: bool
    ) -> tuple[Tensor, Scalars, Report]:
        """Loss of a part of this process' share; a failure of any ends all of them together."""
        failure, outcome = None, None
        try:
            with solver_failures(step, "forward pass"):
                outcome = self._recorded(batch, turn.name)
            self._check_loss(outcome[0], batch, turn.name, step, logged=logged)
        except TrainingFailure as error:
            failure = explain_inputs(batch, step) or error
        failed, self.stopping = self.ranks.any(failure is not None, self.stop.requested)
        self._raise_together(failure, part, step, failed=failed)
        assert outcome is not None
        return outcome

    def _recorded(self, batch: Batch, turn: str) -> tuple[Tensor, Scalars, Report]:
        # A process that raised inside its backward pass would leave the others waiting there.
        with record(self.parts.loss.model, defer=True) as report:
            loss, scalars = self.module(batch, turn)
        return loss, scalars, report

    def _backward(self, loss: Tensor, part: Share, report: Report, step: int) -> None:
        """Gradients of all processes; a failure of any process ends all of them together."""
        failure = None
        try:
            with solver_failures(step, "backward pass"):
                torch.autograd.backward(loss)
                report.raise_deferred()
        except TrainingFailure as error:
            failure = error
        (failed,) = self.ranks.any(failure is not None)
        self._raise_together(failure, part, step, failed=failed)

    def _raise_together(
        self, failure: TrainingFailure | None, part: Share, step: int, *, failed: bool
    ) -> None:
        rank, world = self.ranks.rank, self.ranks.world
        first, every = rank + world * part.index, world * part.count
        if failure is not None and every > 1:
            raise TrainingFailure(
                f"{failure} (sample i of process {rank} is number {first} + {every}·i of the batch)"
            ) from failure
        if failure is not None:
            raise failure
        if failed:
            raise FailureElsewhere(f"step {step}: another process failed, see its message")

    def _check_loss(
        self, loss: Tensor, batch: Batch, turn: str, step: int, *, logged: bool
    ) -> None:
        """Look at the loss where its number is at hand."""
        if self._at_hand(loss, logged=logged) and not bool(torch.isfinite(loss)):
            raise TrainingFailure(explain_nonfinite(self.parts.loss, batch, turn, step))

    def _at_hand(self, number: Tensor, *, logged: bool) -> bool:
        """Whether to read a number: always on the CPU, else where the device is waited for."""
        return number.device.type == "cpu" or logged or self._tolerant

    def _require_low(self, loss: Tensor, turn: _Turn, step: int) -> None:
        """Refuse a loss far above the lowest so far; it is that of all processes together."""
        margin = self.state.config.divergence_margin
        if margin is None:
            return
        value = self.ranks.mean({"loss": loss})["loss"]
        lowest = self.state.lowest.get(turn.name, math.inf)
        if not value <= lowest + margin:
            raise diverged(
                step,
                f"the {turn.prefix()}loss {value:.4g} is more than divergence_margin={margin:g} "
                f"above the lowest so far, {lowest:.4g}",
            )
        self._losses[turn.name] = min(lowest, value)

    def _clip(self, turn: _Turn, step: int, *, logged: bool) -> Scalars:
        """Clip the gradient if the config says so; its norm where it was needed.

        Processes share their gradients, so that a norm is finite for all of them or for none.
        """
        clip = self.state.config.gradient_clip
        if clip is None and not logged and not self._tolerant:
            return {}
        parameters = turn.parameters()
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if self._at_hand(norm, logged=logged) and not bool(torch.isfinite(norm)):
            raise diverged(step, explain_gradient(self.parts.loss))
        if clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm, foreach=True)
        return {"gradient_norm": norm}


def _rates(prefix: str, rates: list[float]) -> dict[str, float]:
    """Learning rates by name; further optimizers of a turn are numbered from 1."""
    return {
        f"{prefix}learning_rate{f'_{number}' if number else ''}": rate
        for number, rate in enumerate(rates)
    }
