"""Tensors that a backward pass needs and that no node of the graph could save for it."""

from collections.abc import Sequence
from typing import Any, cast, final

import torch
from torch import Tensor

from flow_solvers.untransformed import Untransformed


@final
class KeptTensors:
    """Tensors that are kept as autograd keeps those that it saves.

    So hooks on saved tensors see them, which move them elsewhere or have them computed again.

    Args:
        tensors: What is kept, without its graph; at least one.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        # A node that no backward pass comes to: it lives as long as this object.
        with torch.enable_grad():
            anchor = torch.empty(0, requires_grad=True)
            self._node: Any = _Keep.apply(anchor, *(tensor.detach() for tensor in tensors)).grad_fn

    def tensors(self) -> tuple[Tensor, ...]:
        """What is kept."""
        return cast(tuple[Tensor, ...], self._node.saved_tensors)


class _Keep(Untransformed):
    @staticmethod
    def forward(anchor: Tensor, *tensors: Tensor) -> Tensor:
        del tensors
        return anchor.view_as(anchor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return grad_outputs[0], *(None for _ in ctx.saved_tensors)
