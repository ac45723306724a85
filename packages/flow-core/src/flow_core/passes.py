"""What one pass through a model depends on, as a value.

It travels from the outermost call to every layer beside the data: nothing that a call does depends
on a context variable or on an attribute that somebody has changed. So a recomputed segment does
what it did, threads do not meet, and one model can be used in two ways at once.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from flow_solvers import BoundMap
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.breakage import LayerWatch
from flow_core.maps.lipschitz_map import Held, LipschitzMap
from flow_core.memory.tape import MemoryTape
from flow_core.record import Report
from flow_core.settings import DEFAULT_SETTINGS, Settings

Direction: TypeAlias = Literal["transform", "inverse"]


@runtime_checkable
class Collector(Protocol):
    """Is shown the inputs of layers that have a training surrogate, and of landmarks."""

    def collect(self, layer: nn.Module, x: Tensor) -> None:
        """Take what is wanted of a layer and its input."""
        ...


_NOTHING: Mapping[LipschitzMap, Held] = {}


class Pass(NamedTuple):
    """One pass through a model: what layers get as `how`.

    A tuple, because every call makes some and a dataclass takes five times as long.

    Attributes:
        settings: What the caller chose.
        context: Per sample; a layer may replace it for what is below (`given`).
        direction: Which way layers go.
        wants_log_det: Whether log-determinants are wanted.
        initializes: Whether data-dependent layers take their statistics.
        maps: Maps that are bound already.
        reports: Where solves and log-determinants are told.
        collector: Is shown the inputs of self-normalizing layers and of landmarks.
        watch: Is shown what every layer does; the pass repeats another, and tells no reports.
        begun: Whether the outermost call has checked and prepared the input.
        nothing: Zeros that stand for all log-determinants where none is wanted.
        tape: Where compositions leave how their layers are computed again, if they are.
    """

    settings: Settings = DEFAULT_SETTINGS
    context: Tensor | None = None
    direction: Direction = "transform"
    wants_log_det: bool = True
    initializes: bool = False
    maps: Mapping[LipschitzMap, Held] = _NOTHING
    reports: tuple[Report, ...] = ()
    collector: Collector | None = None
    watch: LayerWatch | None = None
    begun: bool = False
    nothing: Tensor | None = None
    tape: MemoryTape | None = None

    def turned(self) -> "Pass":
        """The other way."""
        back: Direction = "inverse" if self.direction == "transform" else "transform"
        return self._replace(direction=back)

    def given(self, context: Tensor | None) -> "Pass":
        """With another context."""
        return self if context is self.context else self._replace(context=context)

    def backtracking(self) -> "Pass":
        """The other way, for the value alone and told to nobody."""
        turned = self.turned()
        return turned._replace(wants_log_det=False, reports=(), collector=None, tape=None)

    def holding(self, maps: Mapping[LipschitzMap, Held]) -> "Pass":
        """With more bound maps, in place of those that are held already."""
        return self._replace(maps={**self.maps, **maps}) if maps else self

    def log_det(
        self,
        x: Float[Tensor, " batch *shape"],
        compute: Callable[[], Float[Tensor, " batch"]],
    ) -> Float[Tensor, " batch"]:
        """What `compute` gives, or zeros and no work where no log-determinant is wanted."""
        if self.wants_log_det:
            return compute()
        nothing = self.nothing
        # A layer may fold something into the batch of the layers inside it.
        return zeros(x) if nothing is None or nothing.shape[0] != x.shape[0] else nothing

    def bind(self, g: LipschitzMap) -> BoundMap:
        """G with its effective weights, the context and the compilation of this pass."""
        held = self.maps.get(g)
        if held is None or held.graph not in (None, torch.is_grad_enabled()):
            bound = g.bind(self.context)
        else:
            bound = held.owner.attach(held.bound, self.context)
        return g.compiled(bound, self.settings.compiled) if self.settings.compiled else bound


def zeros(x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
    """One zero per sample."""
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    return x.new_zeros(x.shape[0], dtype=dtype)
