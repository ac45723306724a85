"""Activations that permute: their Jacobian is a permutation, not one slope per channel."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class SortingActivation(nn.Module, ABC):
    """Reorders the channels of each sample (Anil et al. 2019, "Sorting out Lipschitz functions").

    Norm-preserving almost everywhere. J t is `t.gather(dim, order)` and Jᵀ g is
    `zeros.scatter(dim, order, g)`.
    """

    @property
    def lipschitz(self) -> float:
        """1."""
        return 1.0

    @abstractmethod
    def value_and_order(
        self, a: Float[Tensor, "*shape"], dim: int
    ) -> tuple[Float[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """The reordered channels, and for each the input channel that it came from."""

    def forward(self, a: Float[Tensor, "*shape"], dim: int = 1) -> Float[Tensor, "*shape"]:
        """The reordered channels."""
        return self.value_and_order(a, dim)[0]

    def __call__(self, a: Float[Tensor, "*shape"], dim: int = 1) -> Float[Tensor, "*shape"]:
        """Typed `forward`."""
        output: Tensor = super().__call__(a, dim)
        return output


class FullSort(SortingActivation):
    """Sorts the channels in ascending order."""

    def value_and_order(
        self, a: Float[Tensor, "*shape"], dim: int
    ) -> tuple[Float[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """Sorted channels and their origin."""
        value, order = torch.sort(a, dim)
        return value, order


class MaxMin(SortingActivation):
    """The larger of each pair of neighbouring channels, then the smaller of each pair."""

    def value_and_order(
        self, a: Float[Tensor, "*shape"], dim: int
    ) -> tuple[Float[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """[max of pairs, min of pairs] and their origin.

        Raises:
            ValueError: The number of channels is odd.
        """
        channels = a.shape[dim]
        if channels % 2:
            raise ValueError(f"MaxMin: expected an even number of channels, got {channels}")
        last = a.movedim(dim, -1)
        even, odd = last[..., 0::2], last[..., 1::2]
        swapped = (odd > even).long()
        base = torch.arange(0, channels, 2, device=a.device)
        order = torch.cat((base + swapped, base + 1 - swapped), -1).movedim(-1, dim)
        return a.gather(dim, order), order
