"""Computing in the precision of the tensors."""

from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from operator import attrgetter

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)
_WITH_FLOAT64 = ("cpu", "cuda", "meta")


def widen(tensor: Shaped[Tensor, " *shape"]) -> Shaped[Tensor, " *shape"]:
    """Half precision as float32, in which there are solves and factorisations; else the tensor."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def in_float64(tensor: Shaped[Tensor, " *shape"]) -> Float64[Tensor, " *shape"]:
    """The tensor in float64: on its device where that has such numbers, else on the CPU."""
    return tensor.to(float64_device(tensor.device)).double()


def float64_device(device: torch.device) -> torch.device:
    """The device itself where it has float64, else the CPU."""
    has = device.type in _WITH_FLOAT64 or _can_make_float64(device.type)
    return device if has else torch.device("cpu")


@cache
def _can_make_float64(kind: str) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError):
        return False
    return True


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
