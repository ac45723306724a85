"""Computing in the precision of the tensors."""

from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from operator import attrgetter

import torch
from torch import Tensor


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Solves keep the precision of their input whatever the state of autocast and of cuDNN."""
    kind = like.device.type
    rounds = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    autocast = torch.autocast(kind, enabled=False) if rounds else nullcontext()
    if not like.is_cuda or torch.compiler.is_compiling():
        return autocast
    both = ExitStack()
    both.enter_context(autocast)
    both.enter_context(exact_convolutions())
    return both


@contextmanager
def exact_convolutions() -> Generator[None]:
    """Let cuDNN convolve float32 as float32: by default it rounds to the ten bits of tf32."""
    # An attribute that type checkers do not see: the module replaces itself when imported.
    settings = attrgetter("conv")(torch.backends.cudnn)
    before = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before
