"""Maps of small dimension that run whole stretches of a solve as one piece of code.

Small problems spend their time in launching operations and in the loop around them. What a solve
does between two looks at its state is therefore a function of a map and of tensors, without
branches on data: any map can run it, and a map that can compile it makes one piece of code of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers.maps import BoundMap
from flow_solvers.samples import SMALL_DIMENSION

CompiledFunction: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""A function of (bound, w, *arguments) that works with any `BoundMap`."""


class CompiledMap(ABC):
    """A bound map that can run whole stretches of a solve as one, perhaps compiled.

    To be inherited from, next to the methods of a `BoundMap`: checking a protocol costs as much as
    several operations. Only batches of up to four numbers per sample are run in this way.
    """

    @property
    def unroll(self) -> int:
        """Evaluations that are worth making before anyone looks at their result."""
        return 1

    @abstractmethod
    def run(
        self, function: CompiledFunction, w: Float[Tensor, " batch dim"], *arguments: object
    ) -> tuple[Tensor, ...]:
        """`function(self, w, *arguments)` without a graph.

        The function sees this map with detached tensors. It calls it, linearizes it and replaces
        its tensors; its other arguments are tensors, numbers and tuples of them.
        """


def compiled(bound: BoundMap, w: Float[Tensor, " batch *shape"]) -> CompiledMap | None:
    """The map itself where it runs functions at points like w."""
    small = w.dim() == 2 and 0 < w.shape[1] <= SMALL_DIMENSION
    return bound if small and isinstance(bound, CompiledMap) else None


def run(
    function: CompiledFunction,
    bound: BoundMap,
    w: Float[Tensor, " batch *shape"],
    *arguments: object,
) -> tuple[Tensor, ...]:
    """`function(bound, w, *arguments)` without a graph, by the map itself where it can."""
    whole = compiled(bound, w)
    if whole is not None:
        return whole.run(function, w, *arguments)
    with torch.no_grad():
        return function(bound, w, *arguments)
