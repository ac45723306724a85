"""What every training run is told, whatever it trains."""

from dataclasses import dataclass, field
from typing import Literal

from flow_apps.config.checks import require, require_counts
from flow_apps.config.optimizer import OptimizerConfig

# Far more end the process inside the OpenMP library.
_MOST_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, optimizers and reporting of a run.

    Attributes:
        iterations: Optimizer steps.
        batch_size: Samples a step, over all processes together.
        optimizer: The optimizer of the model.
        further_optimizers: Optimizers of parts of the model, each with its own steps.
        gradient_clip: Largest global norm of the gradient, or None.
        ema_decay: Decay of an exponential moving average of the weights, which then is what is
            tested; or None.
        seed: Everything random follows from it and from the step.
        device: As torch writes it.
        compile: Whether small maps and their solves run as compiled code. It changes the last bits
            of every number, so it follows from here alone.
        threads: Of torch on the CPU, or None for its choice. Small models take one: more wait for
            each other, above all where other programs run too.
        log_every: Steps between lines about training.
        evaluate_every: Steps between evaluations.
        figures_every: Steps between figures; they are skipped where they would take more than a
            tenth of the training time.
        checkpoint_seconds: Time between checkpoints.
        trackers: Experiment trackers that are installed.
        tracker_project: Project of the run at the trackers.
    """

    iterations: int = 50_000
    batch_size: int = 500
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    further_optimizers: tuple[OptimizerConfig, ...] = ()
    gradient_clip: float | None = None
    ema_decay: float | None = None
    seed: int = 0
    device: str = "cpu"
    compile: bool = False
    threads: int | None = None
    log_every: int = 10
    evaluate_every: int = 100
    figures_every: int = 1000
    checkpoint_seconds: float = 30.0
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    tracker_project: str = "flow-apps"

    def __post_init__(self) -> None:
        counts = ("iterations", "log_every", "evaluate_every", "figures_every")
        require_counts(self, *counts, most=10**12)
        require_counts(self, "batch_size", most=10**8)
        require(self.seed >= 0, f"seed: expected 0 or a positive integer, got {self.seed}")
        pause = self.checkpoint_seconds
        require(pause > 0, f"checkpoint_seconds: expected a positive number, got {pause}")
        threads = self.threads
        possible = threads is None or 0 < threads <= _MOST_THREADS
        require(possible, f"threads: expected 1 to {_MOST_THREADS}, got {threads}")
        clip, ema = self.gradient_clip, self.ema_decay
        require(clip is None or clip > 0, f"gradient_clip: expected a positive number, got {clip}")
        require(ema is None or 0 < ema < 1, f"ema_decay: expected between 0 and 1, got {ema}")
        anonymous = any(not other.parameters for other in self.further_optimizers)
        require(not anonymous, "further_optimizers: expected parameters, patterns of names; got []")
        busy = any(optimizer.every == 1 for optimizer in self.optimizers)
        require(busy, "every: expected 1 of one optimizer at least, or there are steps without any")

    @property
    def optimizers(self) -> tuple[OptimizerConfig, ...]:
        """All optimizers, that of the model first."""
        return self.optimizer, *self.further_optimizers
