"""The linear operators of Lipschitz layers, in batches, acting on flat vectors."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Left = Float[Tensor, "batch rows"]
Right = Float[Tensor, "batch columns"]
StackedWeights = Float[Tensor, "batch rows *rest"]


@runtime_checkable
class WeightOperator(Protocol):
    """A batch of linear operators A, each from R^columns to R^rows."""

    @property
    def rank_bound(self) -> int:
        """min(rows, columns)."""
        ...

    def apply(self, v: Right) -> Left:
        """A v."""
        ...

    def adjoint(self, u: Left) -> Right:
        """Aᵀ u."""
        ...

    def direction(self, u: Left, v: Right) -> StackedWeights:
        """D with <W, D> = uᵀ A(W) v for every weight W, laid out like the weight."""
        ...


@dataclass(frozen=True)
class MatrixOperator:
    """v -> W v for a stack of matrices."""

    matrix: Float[Tensor, "batch rows columns"]

    @property
    def rank_bound(self) -> int:
        """min(rows, columns)."""
        return min(self.matrix.shape[1:])

    def apply(self, v: Right) -> Left:
        """W v."""
        return (self.matrix @ v.unsqueeze(-1)).squeeze(-1)

    def adjoint(self, u: Left) -> Right:
        """Wᵀ u."""
        return (self.matrix.mT @ u.unsqueeze(-1)).squeeze(-1)

    def direction(self, u: Left, v: Right) -> Float[Tensor, "batch rows columns"]:
        """The outer products u vᵀ."""
        return u.unsqueeze(-1) * v.unsqueeze(-2)


@dataclass(frozen=True)
class ConvOperator:
    """One zero-padded convolution of stride 1 on maps of a known size (a batch of one)."""

    kernel: Float[Tensor, "out_channels in_channels size size"]
    map_size: tuple[int, int]

    @property
    def rank_bound(self) -> int:
        """min(in_channels, out_channels) * height * width."""
        return min(self.kernel.shape[:2]) * self.map_size[0] * self.map_size[1]

    @property
    def padding(self) -> int:
        """Half of the (odd) kernel size."""
        return self.kernel.shape[-1] // 2

    def maps(self, vector: Float[Tensor, "one dim"]) -> Float[Tensor, "one channels height width"]:
        """A flat vector as a feature map."""
        return vector.view(1, -1, *self.map_size)

    def apply(self, v: Float[Tensor, "one columns"]) -> Float[Tensor, "one rows"]:
        """The convolution."""
        return functional.conv2d(self.maps(v), self.kernel, padding=self.padding).flatten(1)

    def adjoint(self, u: Float[Tensor, "one rows"]) -> Float[Tensor, "one columns"]:
        """The transposed convolution."""
        maps = functional.conv_transpose2d(self.maps(u), self.kernel, padding=self.padding)
        return maps.flatten(1)

    def direction(
        self, u: Float[Tensor, "one rows"], v: Float[Tensor, "one columns"]
    ) -> Float[Tensor, "one out_channels in_channels size size"]:
        """The correlation of the two maps, a tensor of the size of the kernel."""
        patches = functional.unfold(self.maps(v), self.kernel.shape[-1], padding=self.padding)
        rows = self.maps(u).flatten(2)
        return (rows @ patches.mT).view(1, *self.kernel.shape)
