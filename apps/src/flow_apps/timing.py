"""How long calls take, with the device waited for."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_TRIMMED = 0.2


@dataclass(frozen=True)
class Timing:
    """Wall seconds of one call that handles some samples.

    Attributes:
        mean: Of the calls, without the fastest and the slowest fifth of them.
        deviation: Standard deviation of the same calls.
        per_sample: Mean over samples.
        calls: How many were kept.
    """

    mean: float
    deviation: float
    per_sample: float
    calls: int


def time_calls(
    call: Callable[[], object], *, samples: int, calls: int, device: torch.device
) -> Timing:
    """Time a call again and again, after one that does not count.

    Args:
        call: What is timed.
        samples: Samples that one call handles.
        calls: How often.
        device: Waited for before and after every call.
    """
    call()
    seconds = sorted(_seconds(call, device) for _ in range(calls))
    cut = int(_TRIMMED * calls)
    kept = torch.tensor(seconds[cut : calls - cut], dtype=torch.float64)
    mean = float(kept.mean())
    return Timing(mean, float(kept.std(correction=0)), mean / samples, len(kept))


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
