"""Computing in the precision of the tensors."""

from collections.abc import Generator, Iterable, Iterator, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, partial
from operator import attrgetter

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor
from torch.autograd.graph import Node

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
    return device if has_float64(device) else torch.device("cpu")


def has_float64(device: torch.device) -> bool:
    """Whether the device has float64; those of Apple have none."""
    return device.type in _WITH_FLOAT64 or _can_make_float64(device.type)


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


def without_autocast_backward(outputs: Iterable[Tensor], inputs: Iterable[Tensor | None]) -> None:
    """Let backward passes from the outputs down to the inputs keep the precision of the tensors.

    What is computed inside `without_autocast` leaves a graph, which runs wherever `backward` is
    called. Where autocast is on then, the nodes of the graph are told to leave it; where it is off,
    this costs a hook per output.

    Args:
        outputs: What was computed.
        inputs: What it was computed from: the nodes behind them are left alone.
    """
    if torch.compiler.is_compiling():
        return
    ends = {t.grad_fn for t in inputs if t is not None}
    for output in outputs:
        node = output.grad_fn
        if node is not None and node not in ends:
            output.register_hook(_LeaveAutocast(output.device.type, node, ends))  # type: ignore[no-untyped-call]  # as torch has it


class _LeaveAutocast:
    """A hook of an output. The engine gives every node its own copy of the state of autocast."""

    def __init__(self, kind: str, node: Node, ends: Set[Node | None]) -> None:
        # The node itself would be a cycle: it keeps the hook.
        self._kind, self._next, self._ends = kind, node.next_functions, ends
        self._told = False

    def __call__(self, gradient: Tensor | None) -> None:
        del gradient
        if not torch.is_autocast_enabled(self._kind):
            return
        torch.set_autocast_enabled(self._kind, False)
        if not self._told:
            self._told = True
            for node in self._behind():
                node.register_prehook(partial(_leave, self._kind))

    def _behind(self) -> Iterator[Node]:
        seen: set[Node | None] = {None, *self._ends}
        waiting = [node for node, _ in self._next]
        while waiting:
            node = waiting.pop()
            # A leaf outlives the graph, and with it every other graph.
            if node is None or node in seen or not node.next_functions:
                continue
            seen.add(node)
            waiting.extend(found for found, _ in node.next_functions)
            yield node


def _leave(kind: str, gradients: tuple[Tensor | None, ...]) -> None:
    del gradients
    torch.set_autocast_enabled(kind, False)
