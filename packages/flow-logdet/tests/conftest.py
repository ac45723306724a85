"""Maps that the tests know everything about: a small dense net, on vectors and on images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Self

import pytest
import torch
from flow_solvers.maps import Index
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d


@dataclass(frozen=True)
class DenseMap:
    """h = [h, tanh(W h + b)] for every layer, then a last layer back to the size of the input."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def __call__(self, w: Tensor) -> Tensor:
        return self.linearize(w).value

    def linearize(self, w: Tensor) -> "DenseLinearization":
        h = w
        slopes: list[Tensor] = []
        for weight, bias in zip(self.weights[:-1], self.biases, strict=True):
            a = torch.tanh(_apply(weight, h) + bias.view(-1, *[1] * (w.ndim - 2)))
            slopes.append(1 - a.square())
            h = torch.cat([h, a], dim=1)
        return DenseLinearization(self, w, _apply(self.weights[-1], h), tuple(slopes))

    def select(self, index: Index) -> Self:
        return self

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.weights, *self.biases)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Self:
        count = len(self.weights)
        return replace(self, weights=tuple(tensors[:count]), biases=tuple(tensors[count:]))

    def __neg__(self) -> Self:
        return replace(self, weights=(*self.weights[:-1], -self.weights[-1]))


@dataclass(frozen=True)
class DenseLinearization:
    bound: DenseMap
    point: Tensor
    value: Tensor
    slopes: tuple[Tensor, ...]

    @property
    def _dim(self) -> int:
        return 1 - self.point.ndim

    def jvp(self, tangent: Tensor) -> Tensor:
        h = tangent
        for weight, slope in zip(self.bound.weights[:-1], self.slopes, strict=True):
            h = torch.cat([h, slope * _apply(weight, h)], dim=self._dim)
        return _apply(self.bound.weights[-1], h)

    def vjp(self, cotangent: Tensor) -> Tensor:
        g = _apply_transposed(self.bound.weights[-1], cotangent)
        for weight, slope in zip(
            reversed(self.bound.weights[:-1]), reversed(self.slopes), strict=True
        ):
            width = g.shape[self._dim] - slope.shape[1]
            rest = g.narrow(self._dim, 0, width)
            written = g.narrow(self._dim, width, slope.shape[1])
            g = rest + _apply_transposed(weight, slope * written)
        return g

    def jacobian(self) -> Tensor:
        dim = self.point.shape[1:].numel()
        eye = torch.eye(dim, dtype=self.point.dtype).view(dim, 1, *self.point.shape[1:])
        columns = self.jvp(eye.expand(dim, *self.point.shape))
        return columns.flatten(2).permute(1, 2, 0)

    def select(self, index: Index) -> Self:
        return replace(
            self,
            point=self.point[index],
            value=self.value[index],
            slopes=tuple(s[index] for s in self.slopes),
        )


@dataclass(frozen=True)
class FirstOrderLinearization(DenseLinearization):
    """The same, with the paths that cross at most one nonlinearity."""

    def first_order(self) -> "FirstOrderPart":
        return FirstOrderPart(self)


@dataclass(frozen=True)
class FirstOrderPart:
    linearization: DenseLinearization

    def jvp(self, tangent: Tensor, /) -> Tensor:
        lin = self.linearization
        channels = lin.point.shape[1]
        last = lin.bound.weights[-1]
        result, start = _apply(last[:, :channels], tangent), channels
        for weight, slope in zip(lin.bound.weights[:-1], lin.slopes, strict=True):
            stop = start + slope.shape[1]
            image = slope * _apply(weight[:, :channels], tangent)
            result, start = result + _apply(last[:, start:stop], image), stop
        return result

    @property
    def trace(self) -> Tensor:
        lin = self.linearization
        dim = lin.point.shape[1:].numel()
        eye = torch.eye(dim, dtype=lin.point.dtype).view(dim, 1, *lin.point.shape[1:])
        units = eye.expand(dim, *lin.point.shape)
        return (units * self.jvp(units)).flatten(2).sum((0, 2))


@dataclass(frozen=True)
class FirstOrderMap(DenseMap):
    def linearize(self, w: Tensor) -> FirstOrderLinearization:
        plain = super().linearize(w)
        return FirstOrderLinearization(self, plain.point, plain.value, plain.slopes)


def _apply(weight: Tensor, t: Tensor) -> Tensor:
    if weight.ndim == 2:
        return t @ weight.mT
    image = conv2d(t.flatten(0, -4), weight, padding=weight.shape[-1] // 2)
    return image.reshape(*t.shape[:-3], *image.shape[1:])


def _apply_transposed(weight: Tensor, g: Tensor) -> Tensor:
    if weight.ndim == 2:
        return g @ weight
    image = conv_transpose2d(g.flatten(0, -4), weight, padding=weight.shape[-1] // 2)
    return image.reshape(*g.shape[:-3], *image.shape[1:])


MapMaker = Callable[..., DenseMap]


@pytest.fixture
def dense_map() -> MapMaker:
    """Makes a dense net of `channels` inputs with parameters that require gradients."""

    def make(
        channels: int,
        *,
        norm: float = 0.7,
        growth: int = 3,
        depth: int = 2,
        kernel: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        kind: type[DenseMap] = DenseMap,
    ) -> DenseMap:
        generator = torch.Generator().manual_seed(seed)
        weights: list[Tensor] = []
        for i in range(depth + 1):
            rows, columns = (growth if i < depth else channels), channels + i * growth
            side = kernel if i < depth else 1
            window = () if kernel is None or side is None else (side, side)
            weight = torch.randn(rows, columns, *window, generator=generator, dtype=torch.float64)
            weights.append(weight / weight.norm())
        # The last layer sets the size of J, up to the norm of the layers before it.
        weights[-1] = weights[-1] * norm
        biases = [
            torch.randn(growth, generator=generator, dtype=torch.float64) for _ in range(depth)
        ]
        return kind(
            tuple(w.to(dtype).requires_grad_() for w in weights),
            tuple(b.to(dtype).requires_grad_() for b in biases),
        )

    return make


@pytest.fixture
def gradient_map() -> MapMaker:
    """Makes w -> -norm·Wᵀ tanh(W w + b), WᵀW = I: a symmetric, negative J with ‖J‖ ≤ norm.

    Trained blocks are of this sort; biases of one sign add up over the dimensions.
    """

    def make(channels: int, *, norm: float) -> DenseMap:
        generator = torch.Generator().manual_seed(channels)
        square = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
        rotation: Tensor = torch.linalg.qr(square).Q
        last = torch.cat([torch.zeros_like(rotation), -norm * rotation.mT], dim=1)
        bias = 0.3 * torch.randn(channels, generator=generator, dtype=torch.float64)
        weights = (rotation.requires_grad_(), last.requires_grad_())
        return DenseMap(weights, (bias.requires_grad_(),))

    return make


@pytest.fixture
def first_order_map() -> type[DenseMap]:
    """The kind of dense net whose linearization has a first-order part."""
    return FirstOrderMap


@pytest.fixture
def all_signs() -> Callable[[Tensor], Tensor]:
    """All 2^d sign vectors as probes `(2^d, batch, *shape)` for a point."""

    def make(point: Tensor) -> Tensor:
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=point[0].numel())))
        return signs.to(point).view(-1, 1, *point.shape[1:]).expand(-1, *point.shape)

    return make
