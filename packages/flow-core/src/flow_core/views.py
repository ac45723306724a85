"""Views of models whose contractions are bound once, for long inference loops and for attacks."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import final, overload

import torch
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.dequantization import Dequantized
from flow_core.distributions import Flow
from flow_core.maps.lipschitz_map import Held, LipschitzMap
from flow_core.passes import Pass


@final
class Frozen(Bijection):
    """A bijection with the weights that its contractions had when it was made.

    Gradients pass through to the input and the context, and none reaches the parameters of
    contractions; later changes of theirs are not seen. Everything else is shared with the model:
    other parameters, and the modules themselves with their mode, precision and device. Lipschitz
    bounds are unknown: certificates are those of present weights.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__(bijection.event_shape, bijection.output_shape)
        self.uses_context = bijection.uses_context
        self.context_shape = bijection.context_shape
        self.domain, self.codomain = bijection.domain, bijection.codomain
        self.bijection = bijection
        self._held: Mapping[LipschitzMap, Held] = {
            g: _held(g) for g in bijection.modules() if isinstance(g, LipschitzMap)
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        """Move what is held with the parameters, as `.to` does."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # as torch has it
        self._held = {g: _mapped(held, fn) for g, held in self._held.items()}
        for g, held in self._held.items():
            if held.owner is not g:
                held.owner._apply(fn)  # type: ignore[no-untyped-call]  # as torch has it
        return self

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self.bijection(x, how=how.holding(self._held))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self.bijection(y, how=how.holding(self._held))


@overload
def frozen(model: Dequantized) -> Dequantized: ...
@overload
def frozen(model: Flow) -> Flow: ...
@overload
def frozen(model: Bijection) -> Bijection: ...
def frozen(model: Dequantized | Flow | Bijection) -> Dequantized | Flow | Bijection:
    """A view of a model that holds the present effective weights of its contractions.

    For long inference loops, which then normalise no weights, and for gradients by the input alone.
    The model itself is not changed and can be trained on beside its view. A view of a view holds
    what that one holds.
    """
    if isinstance(model, Dequantized):
        view = frozen(model.flow)
        return Dequantized(view, model.dequantizer, model.levels, padding=model.padding)
    if isinstance(model, Flow):
        return Flow(model.base, Frozen(model.bijection), model.event_shape)
    return Frozen(model)


@torch.no_grad()
def _held(g: LipschitzMap) -> Held:
    """The bound map with tensors of its own: some are the parameters themselves."""
    owner = deepcopy(g).requires_grad_(False) if g.uses_context else g
    return _mapped(Held(g.bind_weights(), None, owner), torch.clone)


def _mapped(held: Held, fn: Callable[[Tensor], Tensor]) -> Held:
    bound = held.bound.with_tensors([fn(t) for t in held.bound.tensors()])
    return held._replace(bound=bound)
