"""What every training run is told, whatever it trains."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flow_apps.config.checks import require, require_counts
from flow_apps.config.neighbours import OtherThan, only_with
from flow_apps.config.optimizer import OptimizerConfig

MemoryName: TypeAlias = Literal["stored", "checkpointed", "reversible"]

# Far more end the process inside the OpenMP library.
_MOST_THREADS = 1024
_FAILURES = 10


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, optimizers and reporting of a run.

    Attributes:
        iterations: Optimizer steps.
        batch_size: Samples a step, over all processes together.
        initial_batches: Batches that parameters which depend on data are set from before the first
            step, as one: those of the first steps.
        accumulate: Backward passes of a step, each of an equal part of the batch, one after the
            other: they need as much less memory. Gradients are those of the mean over the batch.
        memory: What training keeps of a pass. stored: all that layers make. checkpointed: inputs of
            layers, from which the rest is computed again. reversible: the last output, from which
            inverses compute the inputs; a layer that loses its input by that ends the run.
        memory_layers: Layers that are computed again at once: fewer inputs are kept.
        optimizer: The optimizer of the model.
        further_optimizers: Optimizers of parts of the model, each with its own steps.
        gradient_clip: Largest global norm of the gradient, or None.
        ema_decay: Decay of an exponential moving average of the weights, which then is what is
            tested; or None.
        on_failure: What becomes of a step without usable numbers. stop: the run ends. skip: the
            step is left out, everything is as before it. restore: everything is as it was at the
            best evaluation, or at the start where there was none. The run goes on with the next
            step, whose samples and random numbers are others.
        max_failures: Steps of the run that may fail, with skip and restore: one more ends it.
        rate_after_failure: Factor on all learning rates for every step that failed, with restore:
            what diverged once does so again where nothing else changes. At most 1.
        divergence_margin: How far the loss of a step may lie above the lowest so far, in its own
            unit: beyond, the step has failed. None: any finite loss is good.
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
    initial_batches: int = 1
    accumulate: int = 1
    memory: MemoryName = "stored"
    memory_layers: int = field(
        default=1, metadata=only_with(("memory", ("checkpointed",)), otherwise=1)
    )
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    further_optimizers: tuple[OptimizerConfig, ...] = ()
    gradient_clip: float | None = None
    ema_decay: float | None = None
    on_failure: Literal["stop", "skip", "restore"] = "stop"
    max_failures: int = field(
        default=_FAILURES,
        metadata=only_with(("on_failure", ("skip", "restore")), otherwise=_FAILURES),
    )
    rate_after_failure: float = field(
        default=1.0, metadata=only_with(("on_failure", ("restore",)), otherwise=1.0)
    )
    divergence_margin: float | None = None
    seed: int = 0
    device: str = "cpu"
    compile: bool = False
    threads: int | None = None
    log_every: int = 10
    evaluate_every: int = 100
    figures_every: int = 1000
    checkpoint_seconds: float = 30.0
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    tracker_project: str = field(
        default="flow-apps", metadata=only_with(("trackers", OtherThan([])))
    )

    def __post_init__(self) -> None:
        counts = ("iterations", "log_every", "evaluate_every", "figures_every")
        require_counts(self, *counts, most=10**12)
        require_counts(self, "batch_size", "accumulate", most=10**8)
        require_counts(self, "initial_batches", most=10**6)
        require_counts(self, "memory_layers", most=10**4)
        grouped = self.memory == "checkpointed" or self.memory_layers == 1
        require(grouped, f"memory_layers: expected memory=checkpointed, got {self.memory}")
        size, passes = self.batch_size, self.accumulate
        even = size % passes == 0
        require(even, f"accumulate: expected a divisor of batch_size={size}, got {passes}")
        require(self.seed >= 0, f"seed: expected 0 or a positive integer, got {self.seed}")
        pause = self.checkpoint_seconds
        require(pause > 0, f"checkpoint_seconds: expected a positive number, got {pause}")
        threads = self.threads
        possible = threads is None or 0 < threads <= _MOST_THREADS
        require(possible, f"threads: expected 1 to {_MOST_THREADS}, got {threads}")
        clip, ema = self.gradient_clip, self.ema_decay
        require(clip is None or clip > 0, f"gradient_clip: expected a positive number, got {clip}")
        require(ema is None or 0 < ema < 1, f"ema_decay: expected between 0 and 1, got {ema}")
        require_counts(self, "max_failures", most=10**9)
        tolerant = self.on_failure != "stop" or self.max_failures == _FAILURES
        require(tolerant, "max_failures: expected on_failure=skip or restore, got stop")
        rate = self.rate_after_failure
        require(0 < rate <= 1, f"rate_after_failure: expected above 0, at most 1, got {rate}")
        restoring = self.on_failure == "restore" or rate == 1
        require(restoring, "rate_after_failure: expected on_failure=restore, or 1")
        margin = self.divergence_margin
        positive = margin is None or margin > 0
        require(positive, f"divergence_margin: expected a positive number, got {margin}")
        anonymous = any(not other.parameters for other in self.further_optimizers)
        require(not anonymous, "further_optimizers: expected parameters, patterns of names; got []")
        busy = any(optimizer.every == 1 for optimizer in self.optimizers)
        require(busy, "every: expected 1 of one optimizer at least, or there are steps without any")

    @property
    def optimizers(self) -> tuple[OptimizerConfig, ...]:
        """All optimizers, that of the model first."""
        return self.optimizer, *self.further_optimizers
