"""Optimizers of torch by name, and how their learning rates go."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flow_apps.config.checks import require, require_counts
from flow_apps.config.neighbours import reset_with

OptimizerName: TypeAlias = Literal[
    "adam",
    "adamw",
    "adamax",
    "nadam",
    "radam",
    "sgd",
    "rmsprop",
    "rprop",
    "adagrad",
    "adadelta",
    "adafactor",
    "asgd",
]
Anneal: TypeAlias = Literal["none", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A factor on the learning rate of every step.

    Attributes:
        warmup: Steps over which the learning rate grows linearly.
        milestones: Pairs (fraction of the run, factor): from that point on the learning rate is
            the factor times that of the optimizer.
        decay: Factor on the learning rate of every step, exponential decay; 1 for none.
        anneal: How the learning rate falls to zero over the run, if it does.
    """

    warmup: int = 0
    milestones: tuple[tuple[float, float], ...] = ()
    decay: float = 1.0
    anneal: Anneal = "none"

    def __post_init__(self) -> None:
        require_counts(self, "warmup", least=0, most=10**9)
        require(0 < self.decay <= 1, f"decay: expected in (0, 1], got {self.decay}")
        for fraction, factor in self.milestones:
            valid = 0 <= fraction <= 1 and factor > 0
            require(valid, f"milestones: expected (0..1, positive), got {(fraction, factor)}")

    @property
    def follows_length(self) -> bool:
        """Whether another length of the run changes the steps that are done already."""
        return bool(self.milestones) or self.anneal != "none"

    def factor_at(self, step: int, iterations: int) -> float:
        """The factor of a step; the first step is 1."""
        warm = min(1.0, step / self.warmup) if self.warmup else 1.0
        factor = 1.0
        for fraction, lower in sorted(self.milestones):
            if step > fraction * iterations:
                factor = lower
        return warm * factor * self.decay ** (step - 1) * self._annealed((step - 1) / iterations)

    def _annealed(self, done: float) -> float:
        if self.anneal == "linear":
            return 1 - done
        return 0.5 * (1 + math.cos(math.pi * done)) if self.anneal == "cosine" else 1.0


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One optimizer, and the part of the model that it changes.

    Attributes:
        name: Of a class of torch.optim, in lower case.
        learning_rate: After the warm-up.
        weight_decay: As the optimizer understands it; Adam adds it to the gradient, AdamW does not.
        options: Further arguments of the class by name, for instance betas or momentum.
        schedule: How the learning rate goes.
        parameters: Patterns of parameter names that belong to it, with * for anything; none: all
            that belong to no other optimizer.
        every: It takes a step at every so many steps of the run.
        turn: Optimizers of one turn share one backward pass, of the loss that the experiment has
            for this turn.
    """

    name: OptimizerName = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    options: Mapping[str, object] = field(
        default_factory=dict[str, object], metadata=reset_with("name", otherwise={})
    )
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parameters: tuple[str, ...] = ()
    every: int = 1
    turn: str = ""

    def __post_init__(self) -> None:
        rate, decay = self.learning_rate, self.weight_decay
        require(rate > 0, f"learning_rate: expected a positive number, got {rate}")
        require(decay >= 0, f"weight_decay: expected 0 or a positive number, got {decay}")
        require_counts(self, "every")

    def learning_rate_at(self, step: int, iterations: int) -> float:
        """The learning rate of a step; the first step is 1."""
        return self.learning_rate * self.schedule.factor_at(step, iterations)
