"""Views of models whose contractions are bound once, for long inference loops and for attacks."""

from collections.abc import Callable, Mapping
from typing import final, overload

import torch
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.distributions import Flow
from flow_core.maps.lipschitz_map import Held, LipschitzMap
from flow_core.passes import Pass


@final
class Frozen(Bijection):
    """A bijection with the effective weights that its contractions had when it was made.

    It shares all other parameters with the model. Gradients pass through to the input and the
    context, and none reaches the parameters of contractions; later changes of theirs are not seen.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__(bijection.event_shape, bijection.output_shape)
        self.uses_context = bijection.uses_context
        self.bijection = bijection
        self._held: Mapping[LipschitzMap, Held] = {
            m: _copy_of_bound(m) for m in bijection.modules() if isinstance(m, LipschitzMap)
        }

    def bounds(self) -> Bounds:
        """Those of the model, with its present weights."""
        return self.bijection.bounds()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        """Move what is held with the parameters, as `.to` does."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # as torch has it
        self._held = {m: _mapped(held, fn) for m, held in self._held.items()}
        return self

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self.bijection(x, how=how.holding(self._held))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self.bijection(y, how=how.holding(self._held))


@overload
def frozen(model: Flow) -> Flow: ...
@overload
def frozen(model: Bijection) -> Bijection: ...
def frozen(model: Flow | Bijection) -> Flow | Bijection:
    """A view of a model that holds the present effective weights of its contractions.

    For long inference loops, which then normalise no weights, and for gradients by the input alone.
    The model itself is not changed and can be trained on beside its view.
    """
    if isinstance(model, Flow):
        return Flow(model.base, Frozen(model.bijection), model.event_shape)
    return Frozen(model)


@torch.no_grad()
def _copy_of_bound(m: LipschitzMap) -> Held:
    """The bound map with tensors of its own: some are the parameters themselves."""
    return _mapped(Held(m.bind_weights(), None), torch.clone)


def _mapped(held: Held, fn: Callable[[Tensor], Tensor]) -> Held:
    return Held(held.bound.with_tensors([fn(t) for t in held.bound.tensors()]), held.graph)
