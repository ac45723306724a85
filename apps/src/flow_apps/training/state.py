"""Everything that a run has to remember, and its form in a checkpoint."""

import copy
import math
from pathlib import Path
from textwrap import shorten
from typing import Any, TypedDict, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flow_apps.config import TrainingConfig
from flow_apps.errors import CheckpointError
from flow_apps.training.clock import StepClock
from flow_apps.training.moving_average import moving_average
from flow_apps.training.optimizers import make_optimizers
from flow_apps.training.parts import Loss

_KINDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "best": (float,),
    "fingerprint": (str,),
    "clock": (dict,),
    "loss": (dict,),
    "optimizers": (list,),
    "average": (dict, type(None)),
}


class FailedStep(TypedDict):
    """A step that gave no usable numbers, and what was done about it.

    Attributes:
        step: Its number.
        problem: What was wrong, with layer and samples.
        went_back_to: The step whose weights the run went on with.
    """

    step: int
    problem: str
    went_back_to: int


class TrainingState:
    """Weights, optimizers, moving average, step, best value and clock of a run.

    There is no state of a random number generator: every draw follows from the seed and the step.

    Attributes:
        failures: Steps that failed so far.
        lowest: The lowest loss of a step so far, by turn, where one is asked for.
        kept: What steps change, as it was at an earlier step, or None.

    Args:
        loss: The model and what it is trained on.
        config: Of the run.
        device: Where it is trained.
        fingerprint: Of the config: weights of another one are refused.
    """

    def __init__(
        self, loss: Loss, config: TrainingConfig, device: torch.device, fingerprint: str
    ) -> None:
        self.loss = loss
        self.config = config
        self.fingerprint = fingerprint
        self.step = 0
        self.best = math.inf
        self.clock = StepClock(device)
        self.optimizers = make_optimizers(loss, config.optimizers)
        self.average: AveragedModel | None = None
        self.failures: list[FailedStep] = []
        self.lowest: dict[str, float] = {}
        self.kept: dict[str, Any] | None = None

    def start_average(self) -> None:
        """Begin the moving average at the present weights, after their initialisation."""
        self.average = moving_average(self.loss.model, self.config.ema_decay)

    @property
    def lowered(self) -> float:
        """The factor on learning rates, after the steps that failed."""
        return self.config.rate_after_failure ** len(self.failures)

    def keep(self) -> None:
        """Keep a copy of what steps change."""
        self.kept = None  # frees its memory before as much is asked for
        self.kept = {"step": self.step, **copy.deepcopy(self._trained())}

    def go_back(self) -> int:
        """Let everything that steps change be as it was kept, and tell of which step that is."""
        assert self.kept is not None
        self.loss.load_state_dict(self.kept["loss"])
        # Optimizers take the tensors that they load, and change them in place.
        self._load_trained({**self.kept, "optimizers": copy.deepcopy(self.kept["optimizers"])})
        return int(self.kept["step"])

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and texts only."""
        return {
            "step": self.step,
            "best": self.best,
            "fingerprint": self.fingerprint,
            "clock": self.clock.state(),
            **self._trained(),
            "failures": [dict(failed) for failed in self.failures],
            "lowest": dict(self.lowest),
            # What is kept for one step only is never gone back to by another process.
            "kept": self.kept if self.config.on_failure == "restore" else None,
        }

    def _trained(self) -> dict[str, Any]:
        """What steps change."""
        return {
            "loss": self.loss.state_dict(),
            "optimizers": [assigned.optimizer.state_dict() for assigned in self.optimizers],
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], source: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: If it belongs to another config or model.
        """
        require_state(state, source, self.fingerprint)
        load_weights(self.loss, state, source)
        try:
            self._load_rest(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _misfit(error, source) from error

    def _load_rest(self, state: dict[str, Any]) -> None:
        self.start_average()
        self._load_trained(state)
        self.clock.load(state["clock"])
        self.step, self.best = int(state["step"]), float(state["best"])
        # Checkpoints of earlier versions know nothing of these.
        self.failures = cast(list[FailedStep], list(state.get("failures", [])))
        self.lowest = dict(state.get("lowest", {}))
        self.kept = state.get("kept")

    def _load_trained(self, saved: dict[str, Any]) -> None:
        """Load what steps change besides the weights."""
        for assigned, gathered in zip(self.optimizers, saved["optimizers"], strict=True):
            _load_optimizer(assigned.optimizer, gathered)
        if self.average is not None:
            self.average.load_state_dict(saved["average"])


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load what an optimizer has gathered; what it is told is as the config says now."""
    told = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, settings in zip(optimizer.param_groups, told, strict=True):
        group.update(settings)


def require_state(state: object, source: Path, fingerprint: str) -> None:
    """Refuse what is no state of a run of this config.

    Raises:
        CheckpointError: Saying which of the two it is not.
    """
    found = cast(dict[str, object], state) if isinstance(state, dict) else {}
    wrong = [
        name
        for name, kinds in _KINDS.items()
        if name not in found or not isinstance(found[name], kinds)
    ]
    step = found.get("step")
    if isinstance(step, int) and step < 0:
        wrong.append("step")
    if wrong:
        raise CheckpointError(
            f"{source} holds no state of a training run: {', '.join(wrong)} missing or of another "
            "kind; use a checkpoint of this run"
        )
    if found["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{source} belongs to another config than config.json; restore config.json, or use the "
            "checkpoints of this run"
        )


def load_weights(loss: Loss, state: dict[str, Any], source: Path) -> None:
    """Load the weights of a checkpoint.

    Raises:
        CheckpointError: If it belongs to another model, or its weights are not numbers.
    """
    try:
        loss.load_state_dict(state["loss"])
    except (RuntimeError, KeyError) as error:
        raise _misfit(error, source) from error
    _require_numbers(state["loss"], source)


def load_model(model: nn.Module, state: dict[str, Any], source: Path) -> None:
    """Load the weights that were tested, the moving average where there is one, into a model alone.

    Raises:
        CheckpointError: If they belong to another model, or are not numbers.
    """
    prefix = "model."
    weights: dict[str, torch.Tensor] = {
        name.removeprefix(prefix): value
        for name, value in state["loss"].items()
        if name.startswith(prefix)
    }
    average: dict[str, torch.Tensor] | None = state["average"]
    try:
        if average is not None:
            # Buffers of the average lag behind by a step; those of the model were tested.
            weights |= {name: average[f"module.{name}"] for name, _ in model.named_parameters()}
        model.load_state_dict(weights)
    except (RuntimeError, KeyError) as error:
        raise _misfit(error, source) from error
    _require_numbers(weights, source)


def _misfit(error: Exception, source: Path) -> CheckpointError:
    problem = shorten(str(error).partition(":")[2] or str(error), 300, placeholder=" …")
    return CheckpointError(
        f"{source} does not fit the config: {problem}; restore config.json, or use the "
        "checkpoints of this run"
    )


def _require_numbers(weights: dict[str, torch.Tensor], source: Path) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{source}: {name} is not finite; use another checkpoint of this run"
            )
