"""Masked convolutional flows: every row from the rows before it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias, cast, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, elu, pad

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds, ratio
from flow_core.combinators import Chain
from flow_core.domain import Domain, LocalBounds
from flow_core.events import per_sample_sum
from flow_core.layers.actnorm import ActNorm
from flow_core.layers.couplings.conditioners import ZeroConv2d
from flow_core.layers.couplings.scales import ScaleFunction, moves_on, scale_function
from flow_core.layers.shear import Moves
from flow_core.lipschitz.plain import (
    affine_bounds,
    conv_norm,
    halves,
    net_bounds,
    product,
    widened_up,
)
from flow_core.passes import Direction, Pass

Side: TypeAlias = Literal["above", "below", "left", "right"]
SIDES: tuple[Side, ...] = ("above", "below", "left", "right")
AffineForm: TypeAlias = Literal["shift-scale", "scale-shift"]
MacowForm: TypeAlias = Literal["plain", "released"]

# As of Glow: every channel that varies at all is standardised.
_VARIANCE_FLOOR = 1e-8


@final
class MaskedConv2d(Bijection):
    """y = (x + t)·s or y = x·s + t, with t and s of a row from the rows before it.

    Two convolutions make t and s. Forward is one pass; the inverse goes row by row, and divides by
    the scales of all rows before: with scales that can come close to 0 it grows without bound.
    Rows are counted from the top, the bottom, or columns from either side. log|det ∂y/∂x| = Σ log s
    in both forms. Source: Ma et al. 2019 (MaCow), §4.1. Of its released code are the kernel of
    2 rows and 3 columns, the form scale-shift, and the scale σ(r + 2), which is `SigmoidScale()`.

    Args:
        channels: Channels of the images.
        hidden: Channels between the convolutions.
        side: Where the rows lie that a row depends on.
        kernel_size: Rows before a row that it depends on, and the columns of the kernel, odd.
        scale: Makes s of a number; that of couplings, bounded on both sides, unless given.
        form: shift-scale: (x + t)·s, as of couplings; scale-shift: x·s + t.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        side: Side = "above",
        kernel_size: tuple[int, int] = (2, 3),
        scale: ScaleFunction | None = None,
        form: AffineForm = "shift-scale",
    ) -> None:
        super().__init__((channels, None, None))
        rows, columns = kernel_size
        if min(channels, hidden, rows, columns) < 1 or columns % 2 == 0 or side not in SIDES:
            raise ValueError(
                f"expected positive sizes, an odd number of columns and a side of {SIDES}, got "
                f"channels={channels}, hidden={hidden}, kernel_size={kernel_size}, side={side!r}"
            )
        self.side: Side = side
        self.scale = scale_function(scale)
        self.form = _known("form", form, get_args(AffineForm))
        self.first = nn.Conv2d(channels, hidden, kernel_size)
        self.last = ZeroConv2d(hidden, 2 * channels, 1)

    def extra_repr(self) -> str:
        """Direction shown in the representation of a model."""
        return f"side={self.side}, scale={self.scale}, form={self.form}"

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """Of the Jacobian S·(I + A), where A takes from rows before: Aʰ = 0 for h rows.

        ‖S(I + A)‖ ≤ max s·(1 + a), and its inverse has at most (1 + a + … + a^(h−1))/min s. Of y,
        the range of x grows row by row. Finite on every bounded domain.
        """
        _, height, width = domain.shape
        rows = width if self.side in ("left", "right") else height
        x = domain if direction == "transform" else self._undone(domain, rows)
        moves = self._moves_on(x)
        shear = (
            moves.combined(ratio(1.0, moves.lowest), product(x.largest, moves.slope))
            if self.form == "scale-shift"
            else moves.shear(x, "transform")
        )
        series = math.fsum(_power(shear, k) for k in range(rows))
        least = ratio(series, moves.lowest)
        bounds = Bounds(widened_up(product(moves.highest, 1 + shear)), widened_up(least))
        return LocalBounds(bounds, self._moved(moves, x) if direction == "transform" else x)

    def _moves_on(self, x: Domain) -> Moves:
        """What is known of t and log s of rows whose rows before are in a domain."""
        norm = conv_norm(self.first.weight, None)
        shape = (len(self.first.weight), *x.shape[1:])
        hidden = affine_bounds(norm, self.first.weight, self.first.bias, x.with_zero(), shape)
        activated = net_bounds(nn.ELU(), hidden.image)
        last = halves(self.last, activated.image)
        return moves_on(last.after(norm), x, self.scale)

    def _moved(self, moves: Moves, x: Domain) -> Domain:
        """The range of y."""
        if self.form == "shift-scale":
            return moves.image(x, "transform")
        still = replace(moves, shift=x.image(0.0, 0.0)).image(x, "transform")
        shift = moves.shift
        return x.image(
            still.lower + shift.lower, still.upper + shift.upper, still.norm + shift.norm
        )

    def _undone(self, y: Domain, rows: int) -> Domain:
        """The range of x: of the first row, whose rows before are zeros, and so on."""
        x = y.image(0.0, 0.0)
        for _ in range(rows):
            moves = self._moves_on(x)
            if self.form == "shift-scale":
                new = moves.image(y, "inverse")
            else:
                shift = moves.shift
                centred = y.image(y.lower - shift.upper, y.upper - shift.lower)
                new = replace(moves, shift=y.image(0.0, 0.0)).image(centred, "inverse")
            x = y.image(min(new.lower, x.lower), max(new.upper, x.upper))
        return x

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Refuse images without a row or a column."""
        if not min(x.shape[2:]):
            raise ValueError(
                f"MaskedConv2d: expected images of at least one pixel, got {tuple(x.shape)}"
            )

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """Every row, in one pass."""
        image = self._turned(x)
        rows, columns = cast(tuple[int, int], self.first.kernel_size)
        before = pad(image, (columns // 2, columns // 2, rows, 0))[:, :, :-1]
        shift, log_scale = self._condition(before)
        scale = log_scale.exp()
        moved = (image + shift) * scale if self.form == "shift-scale" else image * scale + shift
        y = self._turned_back(moved)
        return y, how.log_det(x, lambda: per_sample_sum(log_scale))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """Row by row."""
        image = self._turned(y)
        rows, columns = cast(tuple[int, int], self.first.kernel_size)
        side = (columns // 2, columns // 2)
        known = [torch.zeros_like(image[:, :, :1])] * rows
        log_scales: list[Tensor] = []
        for row in torch.split(image, 1, dim=2):
            shift, log_scale = self._condition(pad(torch.cat(known[-rows:], 2), (*side, 0, 0)))
            scale = log_scale.exp()
            shifted = self.form == "shift-scale"
            known.append(row / scale - shift if shifted else (row - shift) / scale)
            log_scales.append(log_scale)
        x = self._turned_back(torch.cat(known[rows:], 2))
        return x, how.log_det(y, lambda: -per_sample_sum(torch.cat(log_scales, 2)))

    def _condition(self, before: Tensor) -> Sequence[Tensor]:
        """t and log s from the rows before."""
        hidden = elu(conv2d(before, self.first.weight, self.first.bias))
        shift, raw = self.last(hidden).chunk(2, dim=1)
        return shift, self.scale.log_scale(raw)

    def _turned(self, x: Tensor) -> Tensor:
        """The image with the rows before a row above it."""
        if self.side in ("left", "right"):
            x = x.mT
        return x.flip(2) if self.side in ("below", "right") else x

    def _turned_back(self, x: Tensor) -> Tensor:
        if self.side in ("below", "right"):
            x = x.flip(2)
        return x.mT if self.side in ("left", "right") else x


def macow_unit(
    channels: int,
    hidden: int,
    *,
    sides: Sequence[Side] = SIDES,
    scale: ScaleFunction | None = None,
    form: MacowForm = "plain",
) -> Chain:
    """Masked convolutions, one from every side (MaCow).

    Args:
        channels: Channels of the images.
        hidden: Channels between the convolutions of each.
        sides: From which sides, in the order of use.
        scale: Makes scales of numbers; bounded on both sides unless given. That of the released
            code is `SigmoidScale()`, with which the inverse can overflow after a few steps.
        form: plain: the masked convolutions, (x + t)·s each. released: as in the released code, an
            ActNorm before the first and every second one, and x·s + t.

    Raises:
        ValueError: If there is no such form or side, or a size is not positive.
    """
    _known("form", form, get_args(MacowForm))
    affine: AffineForm = "scale-shift" if form == "released" else "shift-scale"
    masked = partial(MaskedConv2d, channels, hidden, scale=scale, form=affine)

    def layers() -> Iterator[Bijection]:
        for i, side in enumerate(sides):
            if form == "released" and i % 2 == 0:
                yield ActNorm(channels, variance_floor=_VARIANCE_FLOOR)
            yield masked(side=side)

    return Chain(list(layers()))


def _power(base: float, exponent: int) -> float:
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def _known(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value
