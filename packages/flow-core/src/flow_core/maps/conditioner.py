"""What a context adds to what the layers of a map compute."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flow_core.context import Context
from flow_core.maps.bound_net import BoundNet
from flow_core.rounding import HALF


class Conditioner(nn.Module, ABC):
    """Makes shifts of layers out of a context; they do not depend on w.

    So Lipschitz constants stay as they are, and one evaluation serves a whole solve.

    Args:
        owner: What errors are about.
        context_shape: Shape of the context of one sample.
    """

    def __init__(self, owner: str, context_shape: Sequence[int]) -> None:
        super().__init__()
        if context_shape[0] < 1:
            raise ValueError(f"expected at least one context feature, got {context_shape[0]}")
        self.owner = owner
        self.context_shape = tuple(context_shape)

    @abstractmethod
    def features(self, bound: BoundNet, context: Context) -> tuple[Tensor, ...]:
        """Shifts of the layers of a net, the first in front.

        Args:
            bound: The net without a context.
            context: Features per sample, or per pixel of maps on images; halves are widened.

        Raises:
            ValueError: If there is no context, or none of that shape and precision.
        """

    def checked(self, context: Tensor | None) -> Tensor:
        """The context in the precision of the weights.

        Raises:
            ValueError: As `features`.
        """
        dtype = next(self.parameters()).dtype
        shape = ", ".join(str(n) for n in ("batch", *self.context_shape))
        expected = f"{self.owner}: expected a context of shape ({shape}) and {dtype}, as built, got"
        if context is None:
            raise ValueError(f"{expected} None")
        if context.shape[1:] != self.context_shape or context.ndim != len(self.context_shape) + 1:
            raise ValueError(f"{expected} {tuple(context.shape)}")
        context = context.to(dtype) if context.dtype in HALF else context
        if context.dtype != dtype:
            raise ValueError(f"{expected} {context.dtype}; convert it")
        return context


class LinearConditioner(Conditioner):
    """A linear (or 3x3 convolutional) layer from the context to a shift of every hidden layer.

    The shifts start at zero.

    Args:
        owner: What errors are about.
        context_features: Features (channels) of the context.
        widths: Of the hidden layers.
        map_size: `(height, width)` of images; None for vectors.
    """

    def __init__(
        self,
        owner: str,
        context_features: int,
        widths: Sequence[int],
        map_size: tuple[int, int] | None,
    ) -> None:
        super().__init__(owner, (context_features, *(map_size or ())))
        self.widths = list(widths)
        total = sum(widths)
        self.layer: nn.Linear | nn.Conv2d = (
            nn.Linear(context_features, total)
            if map_size is None
            else nn.Conv2d(context_features, total, 3, padding=1)
        )
        nn.init.zeros_(self.layer.weight)

    def features(self, bound: BoundNet, context: Context) -> tuple[Tensor, ...]:
        """One shift per hidden layer."""
        del bound
        shifts: Tensor = self.layer(self.checked(context))
        return torch.split(shifts, self.widths, dim=1)
