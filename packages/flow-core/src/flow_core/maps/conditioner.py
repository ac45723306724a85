"""What a context adds to the pre-activations of a map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flow_core.context import Context
from flow_core.rounding import HALF


class Conditioner(nn.Module):
    """A linear (or 3x3 convolutional) layer from the context to a shift of every hidden layer.

    The shifts do not depend on w, so they leave Lipschitz constants alone. They start at zero.
    """

    def __init__(
        self,
        owner: str,
        context_features: int,
        widths: Sequence[int],
        map_size: tuple[int, int] | None,
    ) -> None:
        """Make a layer for hidden layers of these widths; `owner` is what errors are about."""
        super().__init__()
        self.owner = owner
        if context_features < 1:
            raise ValueError(f"expected at least one context feature, got {context_features}")
        self.widths = list(widths)
        self.context_shape = context_features, *(map_size or ())
        total = sum(widths)
        self.layer: nn.Linear | nn.Conv2d = (
            nn.Linear(context_features, total)
            if map_size is None
            else nn.Conv2d(context_features, total, 3, padding=1)
        )
        nn.init.zeros_(self.layer.weight)

    def features(self, context: Context) -> tuple[Tensor, ...]:
        """One shift per hidden layer.

        Args:
            context: Features per sample, or per pixel of maps on images; halves are widened.

        Raises:
            ValueError: If there is no context, or none of that shape and precision.
        """
        shifts: Tensor = self.layer(self._checked(context))
        return torch.split(shifts, self.widths, dim=1)

    def _checked(self, context: Tensor | None) -> Tensor:
        dtype = self.layer.weight.dtype
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
