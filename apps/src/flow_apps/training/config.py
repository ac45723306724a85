"""What every training run is told, whatever it trains."""

from dataclasses import dataclass
from typing import Literal

from flow_apps.errors import ConfigError

# Far more end the process inside the OpenMP library.
_MOST_THREADS = 1024


def require(condition: bool, message: str) -> None:
    """Refuse a config.

    Raises:
        ConfigError: With `message`, if `condition` does not hold.
    """
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, optimizer, schedule and reporting of a run.

    Attributes:
        iterations: Optimizer steps.
        batch_size: Samples a step, over all processes together.
        learning_rate: Of Adam, after the warm-up.
        betas: Decay rates of Adam's moments.
        weight_decay: L2 penalty, added to the gradient as Adam's authors have it.
        warmup: Steps over which the learning rate grows linearly.
        milestones: Pairs (fraction of the run, factor): from that point on the learning rate is
            the factor times `learning_rate`.
        decay: Factor on the learning rate of every step, exponential decay; 1 for none.
        gradient_clip: Largest global norm of the gradient, or None.
        ema_decay: Decay of an exponential moving average of the weights, which then is what is
            tested; or None.
        seed: Everything random follows from it and from the step.
        device: As torch writes it.
        compile: Whether torch.compile is used. It changes the last bits of every number, so it
            follows from here alone.
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
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: int = 0
    milestones: tuple[tuple[float, float], ...] = ()
    decay: float = 1.0
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
        counts = ("iterations", "batch_size", "log_every", "evaluate_every", "figures_every")
        for name in counts:
            value = getattr(self, name)
            require(value > 0, f"{name}: expected a positive integer, got {value}")
        require(self.warmup >= 0, f"warmup: expected 0 or more steps, got {self.warmup}")
        require(self.seed >= 0, f"seed: expected 0 or a positive integer, got {self.seed}")
        for name in ("learning_rate", "checkpoint_seconds"):
            value = getattr(self, name)
            require(value > 0, f"{name}: expected a positive number, got {value}")
        decay = self.weight_decay
        require(decay >= 0, f"weight_decay: expected 0 or a positive number, got {decay}")
        threads = self.threads
        possible = threads is None or 0 < threads <= _MOST_THREADS
        require(possible, f"threads: expected 1 to {_MOST_THREADS}, got {threads}")
        require(0 < self.decay <= 1, f"decay: expected in (0, 1], got {self.decay}")
        clip, ema = self.gradient_clip, self.ema_decay
        require(clip is None or clip > 0, f"gradient_clip: expected a positive number, got {clip}")
        require(ema is None or 0 < ema < 1, f"ema_decay: expected between 0 and 1, got {ema}")
        for beta in self.betas:
            require(0 <= beta < 1, f"betas: expected numbers in [0, 1), got {beta}")
        for fraction, factor in self.milestones:
            valid = 0 <= fraction <= 1 and factor > 0
            require(valid, f"milestones: expected (0..1, positive), got {(fraction, factor)}")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step; the first step is 1."""
        warm = min(1.0, step / self.warmup) if self.warmup else 1.0
        factor = 1.0
        for fraction, lower in sorted(self.milestones):
            if step > fraction * self.iterations:
                factor = lower
        return self.learning_rate * warm * factor * self.decay ** (step - 1)
