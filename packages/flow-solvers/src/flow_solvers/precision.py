"""Computing in the precision of the tensors."""

from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from operator import attrgetter

import torch
from jaxtyping import Shaped
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def widen(tensor: Shaped[Tensor, " *shape"]) -> Shaped[Tensor, " *shape"]:
    """Half precision as float32, in which there are solves and factorisations; else the tensor."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Solves keep the precision of their input whatever the state of autocast, cuDNN and cuBLAS."""
    kind = like.device.type
    rounds = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    autocast = torch.autocast(kind, enabled=False) if rounds else nullcontext()
    if not like.is_cuda or torch.compiler.is_compiling():
        return autocast
    both = ExitStack()
    both.enter_context(autocast)
    both.enter_context(exact_float32())
    return both


@contextmanager
def exact_float32() -> Generator[None]:
    """Let cuDNN and cuBLAS compute float32 as float32, where they may round to tf32's ten bits."""
    # Attributes that type checkers do not see: the modules replace themselves when imported.
    settings = [attrgetter(name)(torch.backends) for name in ("cudnn.conv", "cuda.matmul")]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
