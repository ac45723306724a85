"""A progress line with rate and time left, for people only."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int, str], None]


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """The rate, once it is known."""
        return Text("" if task.speed is None else f"{task.speed:.1f} steps/s")


@contextmanager
def progress(total: int, start: int, *, visible: bool) -> Generator[Advance, None, None]:
    """Yield a function that takes the step and a short text.

    Args:
        total: Steps of the run.
        start: Steps that are already done.
        visible: Whether this process may show anything; even then only a terminal gets it.
    """
    if not (visible and sys.stderr.isatty()):
        yield lambda step, text: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    status = TextColumn("{task.description}")
    with Progress(*columns, status, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=start)
        yield lambda step, text: bar.update(task, completed=step, description=text)


@contextmanager
def working(activity: str, *, visible: bool) -> Generator[None, None, None]:
    """Say what is being done: a moving line on a terminal, else one line before it.

    Args:
        activity: What it is.
        visible: Whether this process may show anything.
    """
    if not (visible and sys.stderr.isatty()):
        say(activity, visible=visible)
        yield
        return
    with Console(stderr=True).status(activity):
        yield


def say(message: str, *, visible: bool = True) -> None:
    """A line for the user that is no result."""
    if visible:
        print(message, file=sys.stderr, flush=True)
