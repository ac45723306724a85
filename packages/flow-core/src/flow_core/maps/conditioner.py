"""What a context adds to the pre-activations of a map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flow_core.bijection import Context


class Conditioner(nn.Module):
    """A linear (or 3x3 convolutional) layer from the context to a shift of every hidden layer.

    The shifts do not depend on w, so they leave Lipschitz constants alone. They start at zero.
    """

    def __init__(self, context_features: int, widths: Sequence[int], *, spatial: bool) -> None:
        super().__init__()
        if context_features < 1:
            raise ValueError(f"expected at least one context feature, got {context_features}")
        self.widths = list(widths)
        total = sum(widths)
        self.layer: nn.Linear | nn.Conv2d = (
            nn.Conv2d(context_features, total, 3, padding=1)
            if spatial
            else nn.Linear(context_features, total)
        )
        nn.init.zeros_(self.layer.weight)

    def features(self, context: Context) -> tuple[Tensor, ...]:
        """One shift per hidden layer.

        Raises:
            ValueError: If there is no context.
        """
        if context is None:
            wanted = self.layer.weight.shape[1]
            raise ValueError(
                f"expected a context of {wanted} features, with which the map was built, got None"
            )
        shifts: Tensor = self.layer(context)
        return torch.split(shifts, self.widths, dim=1)
