"""How long a step takes, without evaluation, figures, checkpoints and compilation."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

WARMUP_STEPS = 10


@dataclass
class Span:
    """Accumulated wall and CPU seconds of some steps."""

    steps: int = 0
    wall: float = 0.0
    cpu: float = 0.0


class StepClock:
    """Mean seconds a step, after the first ten of a process.

    Time runs in spans: from where training goes on to where something else begins. The device is
    synchronised at the end of a span only, so that measuring costs nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._warmup = Span()
        self._measured = Span()
        self._resumed_at = 0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin to count."""
        self._since = self._now()

    def stop(self) -> None:
        """Add what has passed since `start`, after the device has caught up."""
        if self._since is None:
            return
        self._synchronize()
        wall, cpu = self._now()
        span = self._warmup if self._warming else self._measured
        span.wall += wall - self._since[0]
        span.cpu += cpu - self._since[1]
        self._since = None

    @contextmanager
    def paused(self) -> Generator[None, None, None]:
        """Leave out what happens inside."""
        self.stop()
        yield
        self.start()

    def count_step(self) -> None:
        """A step is done."""
        if not self._warming:
            self._measured.steps += 1
            return
        if self._warmup.steps + 1 - self._resumed_at == WARMUP_STEPS:
            self.stop()
            self.start()
        self._warmup.steps += 1

    def seconds_per_step(self) -> float:
        """Mean wall seconds; of the first steps where there were no others."""
        span = self._best()
        return span.wall / max(span.steps, 1)

    def cpu_seconds_per_step(self) -> float:
        """Mean CPU seconds of the process, all threads together."""
        span = self._best()
        return span.cpu / max(span.steps, 1)

    def excess_of_first_steps(self) -> float:
        """Wall seconds by which the first steps were slower than the others: compilation."""
        if not self._measured.steps:
            return 0.0
        return max(0.0, self._warmup.wall - self._warmup.steps * self.seconds_per_step())

    def training_seconds(self) -> float:
        """Wall seconds of all steps so far."""
        running = 0.0 if self._since is None else self._now()[0] - self._since[0]
        return self._warmup.wall + self._measured.wall + running

    def state(self) -> dict[str, int | float]:
        """For a checkpoint."""
        spans = {"warmup": self._warmup, "measured": self._measured}
        return {f"{k}_{n}": v for k, span in spans.items() for n, v in vars(span).items()}

    def load(self, state: dict[str, int | float]) -> None:
        """Go on from a checkpoint; the first steps of this process are left out again."""
        for name, span in (("warmup", self._warmup), ("measured", self._measured)):
            span.steps = int(state[f"{name}_steps"])
            span.wall, span.cpu = state[f"{name}_wall"], state[f"{name}_cpu"]
        self._resumed_at = self._warmup.steps

    @property
    def _warming(self) -> bool:
        return self._warmup.steps - self._resumed_at < WARMUP_STEPS

    def _best(self) -> Span:
        return self._measured if self._measured.steps else self._warmup

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()
