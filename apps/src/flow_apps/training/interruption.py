"""Ctrl-C, a polite kill and a dropped connection end a run after the step at hand."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether someone asked to stop."""

    requested: bool = False


@contextmanager
def stop_on_signals() -> Generator[StopRequest, None, None]:
    """Yield a request that SIGINT, SIGTERM and SIGHUP set; a second signal acts as usual."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    found = {int(number): signal.getsignal(number) for number in numbers}
    # What is ignored stays so: nohup means it.
    previous = {number: handler for number, handler in found.items() if handler != signal.SIG_IGN}

    def handle(number: int, _frame: FrameType | None) -> None:
        """Ask for the end, and let the next such signal act as it did."""
        request.requested = True
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
