"""Where Triton kernels can be launched, and a word about it where one might expect them."""

import importlib.util
import os
import shutil
import warnings
from functools import cache

from torch import Tensor


def is_reachable(x: Tensor) -> bool:
    """Whether a kernel could run where the tensor lies."""
    return x.is_cuda or (x.is_cpu and interpreted())


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def is_refused(operation: str, obstacle: str | None) -> bool:
    """Whether Triton or the obstacle keeps a reachable kernel from being used; say so once."""
    reason = _missing() or obstacle
    if reason is not None:
        _say_once(operation, reason)
    return reason is not None


@cache
def _missing() -> str | None:
    """What Triton lacks; a compiler is what it builds the launcher of every kernel with."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not (interpreted() or "CC" in os.environ or shutil.which("gcc") or shutil.which("clang")):
        return "Triton finds no C compiler, and the environment variable CC names none"
    return None


@cache
def _say_once(operation: str, reason: str) -> None:
    warnings.warn(
        f"{operation}: the Triton kernel is not used, because {reason}; the slower path is",
        stacklevel=2,
    )
