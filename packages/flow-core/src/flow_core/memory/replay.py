"""What a call of a module depends on beside its input, to be had once more."""

from collections.abc import Generator, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

TensorTable: TypeAlias = MutableMapping[str, Tensor | None]


class _Entry(NamedTuple):
    """A tensor of a module."""

    table: TensorTable
    name: str
    tensor: Tensor
    version: int


class Moment:
    """The state that a module is called in: weights, buffers, modes, autocast, random numbers.

    What is called again does what it did: it has the tensors that `functional_call` had put in the
    place of weights, draws the same numbers, and moves no statistics a second time.

    Args:
        module: What is called.
        device: Of its input.
        beside: What it is given beside its input.
    """

    def __init__(
        self, module: nn.Module, device: torch.device, beside: Sequence[Tensor] = ()
    ) -> None:
        self._beside = [(tensor, version_of(tensor)) for tensor in beside]
        self._modes = [(part, part.training) for part in module.modules()]
        self._still = list(_still(module))
        self._moving = [(table, name, t.clone()) for table, name, t in _moving(module)]
        self._device = device
        self._autocast = [_autocast(kind) for kind in {"cpu", device.type} - {"meta"}]
        self._random: tuple[Tensor, ...] | None = _random_state(device)

    def close(self) -> None:
        """The call is over; where it drew no random numbers there are none to repeat."""
        before, after = self._random, _random_state(self._device)
        if before is not None and all(map(torch.equal, before, after)):
            self._random = None

    @contextmanager
    def again(self) -> Generator[None]:
        """As it was, and afterwards as it is now.

        Raises:
            RuntimeError: If a weight, a buffer or a context has been changed in place since.
        """
        self._require_unchanged()
        entries = [(t, name, x) for t, name, x, _ in self._still if t.get(name) is not x]
        # A call may move them, and there may be more calls than one.
        entries += [(table, name, x.clone()) for table, name, x in self._moving]
        present = [(table, name, table.get(name)) for table, name, _ in entries]
        modes = [(part, part.training) for part, _ in self._modes]
        state = _random_state(self._device)
        try:
            _put(entries, self._modes)
            if self._random is not None:
                _set_random_state(self._random, self._device)
            with ExitStack() as stack:
                for kind, enabled, dtype in self._autocast:
                    stack.enter_context(torch.autocast(kind, dtype, enabled))
                yield
        finally:
            _put(present, modes)
            _set_random_state(state, self._device)

    def _require_unchanged(self) -> None:
        if any(version_of(tensor) != version for tensor, version in self._beside):
            raise RuntimeError(
                "expected the context of the forward pass, which the backward pass computes with "
                "again, got one that was changed in place; change a clone of it"
            )
        changed = [e.name for e in self._still if version_of(e.tensor) != e.version]
        if changed:
            raise RuntimeError(
                f"expected the weights and buffers of the forward pass, which the backward pass "
                f"computes with again, got others: {sorted(set(changed))} changed in place since; "
                "call backward before the step of the optimizer, and before any update"
            )


def _still(module: nn.Module) -> Iterator[_Entry]:
    """Tensors that a call leaves alone. Sharded ones are whole only inside of it."""
    for part in module.modules():
        for kind in ("_parameters",) if _moves(part) else ("_parameters", "_buffers"):
            table = _table(part, kind)
            for name, tensor in table.items():
                if tensor is not None and type(tensor) in (Tensor, nn.Parameter):
                    yield _Entry(table, name, tensor, version_of(tensor))


def _moving(module: nn.Module) -> Iterator[tuple[TensorTable, str, Tensor]]:
    for part in module.modules():
        table = _table(part, "_buffers") if _moves(part) else {}
        yield from ((table, name, x) for name, x in table.items() if x is not None)


def _table(part: nn.Module, kind: str) -> TensorTable:
    """Its own tensors, which `functional_call` exchanges there too."""
    return cast(TensorTable, vars(part)[kind])


def version_of(tensor: Tensor) -> int:
    """How often it was changed in place; of what was made in inference mode nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


def _moves(part: nn.Module) -> bool:
    """Whether a call may move buffers: of layers of this package none does."""
    return part.training and not getattr(part, "is_still", False)


def _put(
    entries: Sequence[tuple[TensorTable, str, Tensor | None]],
    modes: Sequence[tuple[nn.Module, bool]],
) -> None:
    for table, name, tensor in entries:
        table[name] = tensor
    for part, training in modes:
        part.training = training


def _autocast(kind: str) -> tuple[str, bool, torch.dtype]:
    available = torch.amp.is_autocast_available(kind)
    enabled = available and torch.is_autocast_enabled(kind)
    return kind, enabled, torch.get_autocast_dtype(kind)


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    """Of the CPU, from which lengths are drawn, and of the device."""
    cpu = torch.get_rng_state()
    if device.type in ("cpu", "meta"):
        return (cpu,)
    return cpu, torch.get_device_module(device).get_rng_state(device)


def _set_random_state(state: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    for own in state[1:]:
        torch.get_device_module(device).set_rng_state(own, device)
