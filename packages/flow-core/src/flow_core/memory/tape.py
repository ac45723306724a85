"""Passes that keep no activations: backward computes them again, a few layers at a time.

The graph is that of a pass which keeps its activations: gradients reach weights, contexts and hooks
where they do without it, to any order, and what is frozen has none. Of its saved tensors, those of
a few layers at a time are made again from their input (`Frame`), and the input is kept or computed
from the output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from flow_core.memory.drift import Fingerprint, agrees
from flow_core.memory.frame import Frame
from flow_core.memory.policies import Checkpointed, MemoryPolicy, Reversible
from flow_core.memory.replay import Moment, version_of


@dataclass
class KeptStep:
    """One layer of a pass.

    Attributes:
        path: Its name in the model.
        module: What has the weights.
        forward: Its output and log-determinant.
        inverse: Its input from its output.
        beside: What it is given beside its input: its context.
        moment: What it was called in.
        fingerprint: Of its input, where that is looked at.
        strides: Of its input.
    """

    path: str
    module: nn.Module
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    inverse: Callable[[Tensor], Tensor]
    beside: tuple[Tensor, ...] = ()
    moment: Moment | None = None
    fingerprint: Fingerprint | None = None
    strides: tuple[int, ...] = ()

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Call it for the first time."""
        self.moment, self.strides = Moment(self.module, x.device, self.beside), x.stride()
        outputs = self.forward(x)
        self.moment.close()
        return outputs

    def again(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Call it once more."""
        with self._there().again():
            return self.forward(x)

    def back(self, y: Tensor) -> Tensor:
        """Its input, from its output."""
        try:
            with self._there().again(), torch.no_grad():
                return _laid_out(self.inverse(y), self.strides)
        except Exception as error:
            error.add_note(f"while the input of {self.path} was computed from its output")
            raise

    def _there(self) -> Moment:
        assert self.moment is not None
        return self.moment


@runtime_checkable
class Source(Protocol):
    """Where the input of steps comes from when they are computed again."""

    def __call__(self) -> Tensor:
        """The input, without a graph."""
        ...


class Kept:
    """A tensor that is kept, and must stay as it is."""

    def __init__(self, x: Tensor, path: str) -> None:
        self._x, self._path, self._version = x.detach(), path, version_of(x)

    def __call__(self) -> Tensor:
        """The tensor.

        Raises:
            RuntimeError: If it has been changed in place since.
        """
        if version_of(self._x) != self._version:
            raise RuntimeError(
                f"expected {self._path} as the forward pass left it, from which the backward pass "
                "computes again, got one that was changed in place; change a clone of it"
            )
        return self._x


@dataclass
class Stretch:
    """Layers each of which has the output of the one before as its input: the last one is kept."""

    policy: Reversible
    steps: list[KeptStep] = field(default_factory=list[KeptStep])
    end: Kept | None = None
    known: tuple[int, Tensor] | None = None
    drifted: bool = False

    def input_of(self, index: int) -> Tensor:
        """The input of a step, from the nearest one behind it that is known."""
        assert self.end is not None
        known = self.known
        at, y = (len(self.steps), self.end()) if known is None or known[0] < index else known
        for i in reversed(range(index, at)):
            y = self._back(self.steps[i], y)
        # The next one wanted is the step before, and before the first there is none.
        self.known = (index, y) if index else None
        return y

    def _back(self, step: KeptStep, y: Tensor) -> Tensor:
        x = step.back(y)
        # What comes before a layer that has lost its input is lost with it: that is told once.
        if step.fingerprint is not None and not self.drifted:
            self.drifted = not agrees(step.fingerprint, x, step.path, self.policy)
        return x


class StepLedger:
    """What a pass has done so far; the graph holds no part of it but the stretches."""

    def __init__(self, policy: MemoryPolicy) -> None:
        self.policy = policy
        self._stretch: Stretch | None = None
        self._last: ReferenceType[Tensor] | None = None

    def run(self, steps: Sequence[KeptStep], x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Steps that are computed again at once: the output, and their log-determinants."""
        policy = self.policy
        if isinstance(policy, Checkpointed):
            return _run(steps, Kept(x, f"the input of {steps[0].path}"), x)
        assert len(steps) == 1
        stretch = self._stretch_behind(x, policy)
        index = len(stretch.steps)
        stretch.steps.append(steps[0])
        y, terms = _run(steps, lambda: stretch.input_of(index), x)
        if policy.tolerance is not None and index % policy.check_every == 0 and y.requires_grad:
            steps[0].fingerprint = Fingerprint.of(x)
        stretch.end = Kept(y, f"the output of {steps[0].path}")
        self._stretch, self._last = stretch, ref(y)
        return y, terms

    def _stretch_behind(self, x: Tensor, policy: Reversible) -> Stretch:
        """The one that ends with x, or a new one: something else has happened in between."""
        stretch = self._stretch
        follows = self._last is not None and self._last() is x
        return stretch if follows and stretch is not None else Stretch(policy)


class MemoryTape(NamedTuple):
    """The ledger of a pass, at a place of the model.

    Attributes:
        ledger: Of the whole pass.
        path: Name of the composition that it has come to.
    """

    ledger: StepLedger
    path: str = ""

    def below(self, name: str) -> "MemoryTape":
        """In a part of the composition."""
        return MemoryTape(self.ledger, self.named(name))

    def named(self, name: str) -> str:
        """The name of a part in the model."""
        return f"{self.path}.{name}" if self.path else name

    @property
    def at_once(self) -> int:
        """Layers that may be computed again at once."""
        policy = self.ledger.policy
        return policy.every if isinstance(policy, Checkpointed) else 1


def _laid_out(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """In memory as it was: random numbers are drawn in that order."""
    if x.stride() == strides or len(x.shape) != len(strides) or 0 in strides:
        return x
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)


def _run(steps: Sequence[KeptStep], source: Source, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    return _Run(steps, source, differentiable=x.requires_grad).begin(x)


class _Run:
    """Steps whose activations are not kept: called with their input, then from its source."""

    def __init__(self, steps: Sequence[KeptStep], source: Source, *, differentiable: bool) -> None:
        self._steps, self._source, self._differentiable = steps, source, differentiable

    def begin(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output of the last, and all log-determinants."""
        terms: list[Tensor] = []
        with Frame(self._input, self._again).saving():
            for step in self._steps:
                x, term = step.begin(x)
                terms.append(term)
        return x, terms

    def _input(self) -> Tensor:
        return self._source().detach().requires_grad_(self._differentiable)

    def _again(self, x: Tensor) -> None:
        for step in self._steps:
            x, _ = step.again(x)
