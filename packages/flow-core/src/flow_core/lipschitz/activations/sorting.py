"""Activations that permute: their Jacobian is a permutation, not one slope per channel."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow_core.lipschitz.activations.base import Activation, Inputs, OutputsAndSlope, Params


class SortingActivation(Activation):
    """Reorders the channels of each sample (Anil et al. 2019, "Sorting out Lipschitz functions").

    Norm-preserving almost everywhere. Its `slope` is the order: for each output channel the input
    channel that it came from, integers without a gradient.
    """

    def push(
        self, t: Float[Tensor, "*tangents"], slope: Int[Tensor, "*order"], dim: int
    ) -> Float[Tensor, "*products"]:
        """The tangents in the order of the outputs."""
        tangents, order = aligned(t, slope)
        return tangents.gather(dim, order)

    def pull(
        self, g: Float[Tensor, "*cotangents"], slope: Int[Tensor, "*order"], width: int, dim: int
    ) -> Float[Tensor, "*products"]:
        """The cotangents back in the order of the inputs."""
        cotangents, order = aligned(g, slope)
        # A permutation writes every entry.
        return torch.empty_like(cotangents).scatter(dim, order, cotangents)

    def trace(
        self, slope: Int[Tensor, "batch write *pixels"], matrix: Float[Tensor, "write read"]
    ) -> Float[Tensor, " batch"]:
        """The sum over k and pixels of matrix[k, order[k]], per sample."""
        order = slope.unsqueeze(-1).flatten(2)
        return matrix.expand(len(order), *matrix.shape).gather(2, order).sum((1, 2))


def aligned(
    t: Float[Tensor, "*tangents"], order: Int[Tensor, "*order"]
) -> tuple[Float[Tensor, "*all"], Int[Tensor, "*all"]]:
    """Both in the shape that products of slopes and tangents would have."""
    shape: torch.Size = torch.broadcast_shapes(t.shape, order.shape)  # type: ignore[no-untyped-call]
    return t.expand(shape), order.expand(shape)


class FullSort(SortingActivation):
    """Sorts the channels in ascending order."""

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """Sorted channels and their origin."""
        value, order = torch.sort(a, dim)
        return value, order


class MaxMin(SortingActivation):
    """The larger of each pair of neighbouring channels, then the smaller of each pair."""

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """[max of pairs, min of pairs] and their origin.

        Raises:
            ValueError: The number of channels is odd.
        """
        channels = a.shape[dim]
        if channels % 2:
            raise ValueError(f"MaxMin: expected an even number of channels, got {channels}")
        even, odd = torch.unflatten(a.movedim(dim, -1), -1, (-1, 2)).unbind(-1)
        swapped = (odd > even).long()
        base = torch.arange(0, channels, 2, device=a.device)
        order = torch.cat((base + swapped, base + 1 - swapped), -1).movedim(-1, dim)
        return a.gather(dim, order), order
