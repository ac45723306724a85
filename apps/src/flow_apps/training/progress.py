"""What a run shows: bars on a terminal, lines at a sensible rhythm in a file."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

AdvanceJob = Callable[[str, int, int], None]
"""Takes what is done, how many of it are, and of how many."""

_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 5.0, 60.0, 1.3


@runtime_checkable
class StepProgress(Protocol):
    """Where a training loop tells how far it is."""

    def step(self, step: int, text: str) -> None:
        """A step is done; the text says what came of it."""
        ...

    def job(self, what: str, done: int, total: int) -> None:
        """A part of an evaluation between the steps is done."""
        ...


class Rhythm:
    """When the next line is due: soon at first, then at most once a minute."""

    def __init__(self, first: float = 0.0) -> None:
        self._pause = _FIRST_PAUSE
        self._next = time.monotonic() + first

    def due(self) -> bool:
        """Whether it is time for a line; then the next one is due later."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._pause
        self._pause = min(_LONGEST_PAUSE, _GROWTH * self._pause)
        return True


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """The rate, once it is known."""
        return Text("" if task.speed is None else f"{_rate(task.speed)}")


class Display:
    """Where a process shows what it does: standard error, so that results stand alone.

    Args:
        visible: Whether this process shows anything.
    """

    def __init__(self, *, visible: bool = True) -> None:
        self.visible = visible
        self.live = visible and sys.stderr.isatty()

    def say(self, message: str) -> None:
        """A line for the user that is no result."""
        if self.visible:
            print(message, file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, activity: str) -> Generator[None, None, None]:
        """Name what is being done: a moving line on a terminal, else one line before it."""
        if not self.live:
            self.say(activity)
            yield
            return
        with Console(stderr=True).status(activity):
            yield

    @contextmanager
    def steps(self, total: int, start: int) -> Generator[StepProgress, None, None]:
        """Yield what takes the steps and what is between them.

        Args:
            total: Steps of the run.
            start: Steps that are already done.
        """
        if not self.live:
            yield _StepLines(self, total, start)
            return
        columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        status = TextColumn("{task.description}")
        with Progress(status, *columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=total, completed=start)
            yield _StepBar(bar, task)

    @contextmanager
    def jobs(self, activity: str) -> Generator[AdvanceJob, None, None]:
        """Yield a function that takes what is done, how many of them are, and of how many."""
        if not self.live:
            self.say(activity)
            yield _JobLines(self, activity)
            return
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        status = TextColumn("{task.description}")
        with Progress(status, *columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(activity, total=None)
            yield lambda what, done, total: bar.update(
                task, completed=done, total=total, description=f"{activity}  {what}"
            )


class Unseen:
    """Shows nothing."""

    def step(self, step: int, text: str) -> None:
        """Nothing."""

    def job(self, what: str, done: int, total: int) -> None:
        """Nothing."""


class _StepBar:
    """A bar on a terminal."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def step(self, step: int, text: str) -> None:
        """Move on."""
        self._bar.update(self._task, completed=step, description=f"training  {text}")

    def job(self, what: str, done: int, total: int) -> None:
        """Tell why it does not move."""
        self._bar.update(self._task, description=f"evaluating  {what} {done}/{total}")


class _StepLines:
    """Step, loss, rate and time left, for a file."""

    def __init__(self, display: Display, total: int, start: int) -> None:
        self._display, self._total = display, total
        self._rhythm = Rhythm()
        self._since = (start, time.monotonic())

    def step(self, step: int, text: str) -> None:
        """Show a line if one is due; the last step always has one."""
        if not (self._rhythm.due() or step == self._total):
            return
        (last, then), now = self._since, time.monotonic()
        self._since = (step, now)
        rate = (step - last) / max(now - then, 1e-9)
        left = timedelta(seconds=round((self._total - step) / max(rate, 1e-9)))
        self._display.say(f"step {step}/{self._total}  {text}  {_rate(rate)}  {left} left")

    def job(self, what: str, done: int, total: int) -> None:
        """Show a line if one is due."""
        if self._rhythm.due():
            self._display.say(f"evaluating: {what} {done}/{total}")


class _JobLines:
    """How much of a long phase is done, for a file."""

    def __init__(self, display: Display, activity: str) -> None:
        self._display, self._activity = display, activity
        self._rhythm = Rhythm(_FIRST_PAUSE)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show a line if one is due."""
        if self._rhythm.due():
            self._display.say(f"{self._activity}: {what} {done}/{total}")


def _rate(steps_per_second: float) -> str:
    if steps_per_second >= 1:
        return f"{steps_per_second:.1f} steps/s"
    return f"{1 / max(steps_per_second, 1e-9):.1f} s/step"
