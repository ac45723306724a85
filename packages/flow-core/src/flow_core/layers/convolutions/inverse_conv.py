"""Convolutions padded on one corner, with the solve in the direction of training."""

import math
from collections.abc import Sequence
from typing import final

import torch
from flow_kernels import Order, inverse_conv2d, padded_conv2d
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.combinators import Chain, Invert
from flow_core.domain import Domain, LocalBounds
from flow_core.layers.convolutions.dense import LARGEST_MATRIX
from flow_core.layers.convolutions.growth import (
    Taps,
    bounded_taps,
    growth_bound,
    in_double,
    norm_bounds,
)
from flow_core.layers.matrices import matrix_bounds
from flow_core.layers.per_channel import summed_over_pixels
from flow_core.passes import Direction, Pass, zeros
from flow_core.record import post_growth

ORDERS: tuple[Order, ...] = ("TL", "TR", "BL", "BR")
_INITIAL_SCALE = 0.2


@final
class InverseConv2d(Bijection):
    """z = T⁻¹ x, where T is a convolution padded on one corner of the image.

    T is triangular (`flow_kernels.padded_conv2d`), so log|det ∂z/∂x| = −h·w·Σ log A_cc, where A
    is the tap of the pixel itself, lower triangular: 0 unless its diagonal is learned. Sampling is
    one convolution. Wrapped in `Invert` the convolution is the direction of training: CInC Flow,
    and with four groups of all orders FInC Flow.

    T⁻¹ is a recursion over pixels and channels and can grow exponentially with their number. With a
    `tap_bound` ρ < 1 the taps of each channel, the last one below its diagonal D among them, are
    scaled so that the magnitudes of D⁻¹K add up to at most ρ, and then
    ‖z‖_∞ ≤ ‖D⁻¹‖_∞·‖x‖_∞/(1 − ρ) whatever the size. `record()` collects max|z|/max|x|.

    Source: Nagar et al. 2025 (Inverse-Flow), Kallapa et al. 2023 (FInC Flow).

    Args:
        channels: Channels of the images.
        kernel_size: Side of the kernel, or (height, width).
        groups: Groups of channels with kernels of their own.
        orders: From which corner each group looks, or one for all.
        learn_diagonal: Whether the diagonal of A is learned, else it is one.
        tap_bound: ρ, or None for taps without a bound.

    Raises:
        ValueError: If sizes, groups, orders or the bound mean nothing.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        groups: int = 1,
        orders: Order | Sequence[Order] = "TL",
        learn_diagonal: bool = False,
        tap_bound: float | None = None,
    ) -> None:
        super().__init__((channels, None, None))
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if min(channels, groups, *size) < 1 or channels % groups:
            raise ValueError(
                "expected a positive kernel_size and channels that the groups divide, got "
                f"channels={channels}, groups={groups}, kernel_size={size}"
            )
        if tap_bound is not None and not 0 < tap_bound < 1:
            raise ValueError(f"expected 0 < tap_bound < 1, got {tap_bound}")
        self.orders: Order | tuple[Order, ...] = _checked(orders, groups)
        self.tap_bound = tap_bound
        self.groups = groups
        self.weight = nn.Parameter(_initial_taps(channels, channels // groups, size))
        self.log_diagonal = nn.Parameter(torch.zeros(channels)) if learn_diagonal else None

    def extra_repr(self) -> str:
        """Sizes shown in the representation of a model."""
        channels, _, height, width = self.weight.shape
        return (
            f"channels={channels}, kernel_size={(height, width)}, groups={self.groups}, "
            f"orders={self.orders}, tap_bound={self.tap_bound}"
        )

    def taps(self) -> Taps:
        """The kernels that are computed with, and the logarithms of A's diagonal."""
        taps = Taps(self.weight, self.log_diagonal)
        return taps if self.tap_bound is None else bounded_taps(taps, self.tap_bound)

    def growth_bound(self) -> float:
        """An upper bound of ‖T⁻¹‖_∞ on images of any size; infinite where none is known."""
        return growth_bound(self.taps())

    @torch.no_grad()
    def bounds(self) -> Bounds:
        """‖T‖ ≤ √(‖T‖₁‖T‖_∞) from sums of taps, and ‖T⁻¹‖ likewise where both sums show one.

        With ρ the largest sum of magnitudes of D⁻¹K over what a value takes, ‖T⁻¹‖_∞ is at most
        ‖D⁻¹‖_∞/(1 − ρ), see `growth_bound`; over what it gives, so is ‖T⁻¹‖₁. Infinite where one of
        the sums is 1 or more: on images of any size T⁻¹ may then grow without end. On a domain,
        whose shape is known, there is a bound.
        """
        norm, inverse = norm_bounds(self.taps())
        return Bounds(inverse, norm)

    @torch.no_grad()
    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """The singular values of T on images of that shape, up to 4096 values.

        Above, those of `bounds`, where ‖T⁻¹‖ ≤ √D·‖T⁻¹‖_∞ serves too if `growth_bound` is finite.
        """
        dim = math.prod(domain.shape)
        if dim <= LARGEST_MATRIX:
            unit = torch.eye(dim, dtype=torch.float64, device=self.weight.device)
            taps = in_double(self.taps())
            image = padded_conv2d(
                unit.view(dim, *domain.shape),
                taps.weight,
                orders=self.orders,
                log_diagonal=taps.log_diagonal,
            )
            bounds = matrix_bounds(image.flatten(1)).swapped()
        else:
            known = self.bounds()
            most = min(known.transform, math.sqrt(dim) * self.growth_bound())
            bounds = Bounds(most, known.inverse)
        return self._mapped(bounds, domain, direction)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """Solve T z = x."""
        weight, log_diagonal = self.taps()
        z = inverse_conv2d(x, weight, orders=self.orders, log_diagonal=log_diagonal)
        post_growth(how.reports, self, x, z)
        return z, how.log_det(x, lambda: -self._log_det(x))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """Convolve: T y."""
        weight, log_diagonal = self.taps()
        x = padded_conv2d(y, weight, orders=self.orders, log_diagonal=log_diagonal)
        return x, how.log_det(y, lambda: self._log_det(y))

    def _log_det(self, x: Tensor) -> Tensor:
        """log|det T| for every image."""
        if self.log_diagonal is None:
            return zeros(x)
        return summed_over_pixels(self.log_diagonal.sum(), x)


def inverse_flow_unit(
    channels: int, kernel_size: int = 3, *, tap_bound: float | None = None
) -> Chain:
    """Four inverse convolutions one after another, one from every corner (Inverse-Flow)."""
    return Chain(
        [
            InverseConv2d(channels, kernel_size, orders=order, tap_bound=tap_bound)
            for order in ORDERS
        ]
    )


def cinc(channels: int, kernel_size: int = 3, *, tap_bound: float | None = None) -> Invert:
    """One padded convolution over all channels (CInC Flow, Nagar et al. 2021)."""
    return Invert(InverseConv2d(channels, kernel_size, tap_bound=tap_bound))


def finc(channels: int, kernel_size: int = 3, *, tap_bound: float | None = None) -> Invert:
    """A padded convolution of every quarter of the channels, each from its own corner (FInC Flow).

    Raises:
        ValueError: If four does not divide the channels.
    """
    if channels % 4:
        raise ValueError(f"expected channels that four divides, got {channels}; squeeze first")
    quarters = InverseConv2d(channels, kernel_size, groups=4, orders=ORDERS, tap_bound=tap_bound)
    return Invert(quarters)


def emerging(channels: int, kernel_size: int = 3, *, tap_bound: float | None = None) -> Chain:
    """Two padded convolutions from opposite corners with learned diagonals: together a full view.

    Source: Hoogeboom et al. 2019, §3.2.
    """

    def padded(order: Order) -> Invert:
        conv = InverseConv2d(
            channels, kernel_size, orders=order, learn_diagonal=True, tap_bound=tap_bound
        )
        return Invert(conv)

    return Chain([padded("TL"), padded("BR")])


def _checked(orders: Order | Sequence[Order], groups: int) -> Order | tuple[Order, ...]:
    each = (orders,) if isinstance(orders, str) else tuple(orders)
    if len(each) not in (1, groups) or any(order not in ORDERS for order in each):
        raise ValueError(
            f"expected orders among {', '.join(ORDERS)}, one or one for each of {groups} groups, "
            f"got {orders!r}"
        )
    return orders if isinstance(orders, str) else each


def _initial_taps(channels: int, inputs: int, size: tuple[int, int]) -> Tensor:
    """Small random taps and a last one of zeros: close to the identity, far from growing."""
    taps = (
        torch.randn(channels, inputs, *size) * _INITIAL_SCALE / math.sqrt(inputs * math.prod(size))
    )
    taps[:, :, -1, -1] = 0
    return taps
