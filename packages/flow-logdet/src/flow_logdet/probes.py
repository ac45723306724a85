"""Random probes ε with E[εεᵀ] = I, and dilutions of them.

A draw has shape `(count, groups, batch, *shape)`: `count` independent probes, each of them split
into `groups` vectors with disjoint supports whose quadratic forms are added up.
"""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from flow_solvers import require_integer, require_kind
from jaxtyping import Bool, Float
from torch import Tensor


@runtime_checkable
class Probe(Protocol):
    """A law of probes."""

    def draw(
        self, point: Float[Tensor, " batch *shape"], count: int
    ) -> Float[Tensor, " count groups batch *shape"]:
        """`count` probes for every sample, from the default generator of the point's device."""
        ...


@final
@dataclass(frozen=True)
class Rademacher:
    """Independent signs: the least variance among probes with independent entries.

    Source: Hutchinson 1990.
    """

    def draw(
        self, point: Float[Tensor, " batch *shape"], count: int
    ) -> Float[Tensor, " count 1 batch *shape"]:
        """Signs."""
        return _signs(point, count).unsqueeze(1)


@final
@dataclass(frozen=True)
class Gaussian:
    """Standard normal entries, as in the published codes of residual and monotone flows."""

    def draw(
        self, point: Float[Tensor, " batch *shape"], count: int
    ) -> Float[Tensor, " count 1 batch *shape"]:
        """Normal numbers."""
        size = (count, 1, *point.shape)
        return torch.randn(size, dtype=point.dtype, device=point.device)


@final
@dataclass(frozen=True)
class Diluted:
    """Signs, split by colour so that strongly coupled coordinates never meet in one vector.

    Images `(channels, height, width)`: the colour is (channel, row mod stride, column mod stride),
    so a probe has `channels * stride**2` vectors; the Jacobian of a convolutional net is local, so
    what is left of the variance comes from pixels at least `stride` apart. Vectors: the colour is
    the coordinate mod `stride**2`.

    Source of dilution: Wilcox 1999; Tang and Saad 2012 (probing).

    Attributes:
        stride: Distance of two pixels of one colour.
        channels: Number of channel groups (channel mod channels); None keeps all apart.
    """

    stride: int = 2
    channels: int | None = None

    def __post_init__(self) -> None:
        require_integer("stride", self.stride, 1)
        if self.channels is not None:
            require_integer("channels", self.channels, 1)

    def draw(
        self, point: Float[Tensor, " batch *shape"], count: int
    ) -> Float[Tensor, " count groups batch *shape"]:
        """Signs times the indicator of every colour."""
        colours = self.colours(point)
        return _signs(point, count).unsqueeze(1) * colours

    def colours(self, point: Float[Tensor, " batch *shape"]) -> Bool[Tensor, " groups 1 *shape"]:
        """Indicators of the colours: a partition of the coordinates.

        Raises:
            ValueError: If the points are neither vectors nor images.
        """
        shape = point.shape[1:]
        if len(shape) == 1:
            return _partition(point, ((0, self.stride**2),))
        if len(shape) != 3:
            raise ValueError(
                "expected vectors (batch, dim) or images (batch, channels, height, width), got "
                f"shape {tuple(point.shape)}; use Rademacher() instead"
            )
        channels = self.channels or shape[0]
        return _partition(point, ((0, channels), (1, self.stride), (2, self.stride)))


@final
@dataclass(frozen=True)
class Fixed:
    """Given probes, for common random numbers and for tests.

    Attributes:
        tensor: Shape `(count, batch, *shape)`.
    """

    tensor: Float[Tensor, " count batch *shape"]

    def __post_init__(self) -> None:
        require_kind("tensor", self.tensor, Tensor, "a tensor (probes, batch, *shape)")

    def draw(
        self, point: Float[Tensor, " batch *shape"], count: int
    ) -> Float[Tensor, " count 1 batch *shape"]:
        """The given probes.

        Raises:
            ValueError: If their shape does not fit.
        """
        expected = (count, *point.shape)
        if self.tensor.shape != expected:
            raise ValueError(
                f"expected fixed probes of shape {expected}, got {tuple(self.tensor.shape)}; the "
                "estimator's `probes` must be the number of fixed probes"
            )
        return self.tensor.to(point).unsqueeze(1)


def _signs(point: Tensor, count: int) -> Float[Tensor, " count batch *shape"]:
    bits = torch.empty((count, *point.shape), dtype=point.dtype, device=point.device)
    return bits.bernoulli_(0.5).mul_(2).sub_(1)


def _partition(
    point: Float[Tensor, " batch *shape"], moduli: tuple[tuple[int, int], ...]
) -> Bool[Tensor, " groups 1 *shape"]:
    """Indicators of the classes of coordinates that agree modulo `modulus` along every axis."""
    shape = point.shape[1:]
    label = torch.zeros(shape, dtype=torch.long, device=point.device)
    groups = 1
    for axis, modulus in moduli:
        classes = min(modulus, shape[axis])
        residue = torch.arange(shape[axis], device=point.device) % classes
        label = label * classes + residue.view(-1, *[1] * (len(shape) - 1 - axis))
        groups *= classes
    colours = torch.arange(groups, device=point.device)
    return (label == colours.view(-1, *[1] * len(shape))).unsqueeze(1)


def inner(
    left: Float[Tensor, " probes batch *shape"], right: Float[Tensor, " probes batch *shape"]
) -> Float[Tensor, " probes batch"]:
    """Inner products per probe and sample."""
    # The added dimension makes the sum right for samples that are scalars.
    return (left * right).unsqueeze(-1).flatten(2).sum(-1)
