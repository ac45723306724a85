"""The recipe for a map G with a Lipschitz constant below one."""

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from flow_solvers import BoundMap

from flow_core.context import Context
from flow_core.lipschitz import Certified


class LipschitzMap(Certified):
    """Raw parameters of a map G; `bind` makes the map itself.

    Effective weights are a value, never module state: a block binds once, uses that one object for
    solve, log-determinant and adjoint, and drops it, so nothing can go stale.

    Args:
        event_shape: Shape of one sample, where the map takes only one.

    Attributes:
        uses_context: Whether G depends on a context.
        context_shape: Shape of the context of one sample, where it is known.
    """

    uses_context: bool = False
    context_shape: tuple[int, ...] | None = None

    def __init__(self, event_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.event_shape = None if event_shape is None else torch.Size(event_shape)

    @abstractmethod
    def bind_weights(self) -> BoundMap:
        """G without a context, from the raw parameters, in the current grad mode."""

    def binding_key(self) -> Hashable | None:
        """Equal for maps of one type that `bind_group` can bind together; None to stay alone."""
        return None

    def bind_group(self, maps: "Sequence[LipschitzMap]") -> Sequence[BoundMap]:
        """`bind_weights` of maps with the key of this one."""
        return [m.bind_weights() for m in maps]

    def attach(self, bound: BoundMap, context: Context) -> BoundMap:
        """Add to a bound map what depends on the context, sample by sample.

        Raises:
            ValueError: If the map needs a context and none came, or not of its shape.
        """
        del context
        return bound

    def compiled(self, bound: BoundMap, batch_sizes: frozenset[int]) -> BoundMap:
        """A bound map that is compiled for these batch sizes, where the map can be."""
        del batch_sizes
        return bound

    def bind(self, context: Context = None) -> BoundMap:
        """G with its effective weights and context fixed."""
        return self.attach(self.bind_weights(), context)


class Held(NamedTuple):
    """A map that is bound already, without its context.

    Attributes:
        bound: The map without its context.
        graph: The grad mode that it was bound in; None serves every mode. Bound without a graph
            and used with one it would silently train nothing.
        owner: Adds what depends on the context.
    """

    bound: BoundMap
    graph: bool | None
    owner: LipschitzMap
