"""Everything that a run has to remember, and its form in a checkpoint."""

import math
from textwrap import shorten
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flow_apps.errors import CheckpointError
from flow_apps.training.clock import StepClock
from flow_apps.training.config import TrainingConfig
from flow_apps.training.moving_average import moving_average
from flow_apps.training.objective import Objective


class TrainingState:
    """Weights, optimizer, moving average, step, best value and clock of a run.

    There is no state of a random number generator: every draw follows from the seed and the step.
    """

    def __init__(self, objective: Objective, config: TrainingConfig, device: torch.device) -> None:
        self.objective = objective
        self.config = config
        self.step = 0
        self.best = math.inf
        self.clock = StepClock(device)
        self.optimizer = adam(objective, config)
        self.average: AveragedModel | None = None

    def start_average(self) -> None:
        """Begin the moving average at the present weights, after their initialisation."""
        self.average = moving_average(self.objective.model, self.config.ema_decay)

    def set_learning_rate(self, step: int) -> float:
        """Give the optimizer the learning rate of a step, and return it."""
        rate = self.config.learning_rate_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and texts only."""
        return {
            "step": self.step,
            "best": self.best,
            "clock": self.clock.state(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: If it belongs to another model.
        """
        load_weights(self.objective, state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.start_average()
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.clock.load(state["clock"])
        self.step, self.best = int(state["step"]), float(state["best"])


def load_weights(objective: Objective, state: dict[str, Any]) -> None:
    """Load what a checkpoint knows of the objective.

    Raises:
        CheckpointError: If it belongs to another model.
    """
    try:
        objective.load_state_dict(state["objective"])
    except (RuntimeError, KeyError) as error:
        problem = shorten(str(error).partition(":")[2] or str(error), 300, placeholder=" …")
        raise CheckpointError(
            f"the checkpoint does not fit the config: {problem}; restore config.json, or use the "
            "checkpoints of this run"
        ) from error


def load_tested_weights(objective: Objective, state: dict[str, Any]) -> None:
    """Load the weights that were tested, and prepare them for tests as they were then.

    Raises:
        CheckpointError: If it belongs to another model.
    """
    load_weights(objective, state)
    average: dict[str, torch.Tensor] | None = state["average"]
    if average is not None:
        for name, parameter in objective.model.named_parameters():
            parameter.data.copy_(average[f"module.{name}"])
    objective.eval()
    objective.prepare_test()


def adam(module: nn.Module, config: TrainingConfig) -> torch.optim.Adam:
    """Adam with an L2 penalty; fused, because small models spend their time in its launches."""
    return torch.optim.Adam(
        module.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
