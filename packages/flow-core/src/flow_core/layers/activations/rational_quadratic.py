"""One increasing rational-quadratic function per value, its slope and its inverse."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Of a piece, in which bounds of its slopes are sought.
_PARTS = 64


@dataclass(frozen=True)
class Piece:
    """The piece from (left, bottom) to (left + width, bottom + height) with given end slopes.

    With s = height/width, t = (x − left)/width and u = 1 − t it is
    y = bottom + height·t·(st + d₀u)/D, D = s(t² + u²) + (d₀ + d₁)tu, with slope
    dy/dx = s²(d₁t² + 2stu + d₀u²)/D². Source: Durkan et al. 2019, eqs. 4 and 5, with 1 − 2tu
    written as t² + u², so that every sum has positive terms. Fields have the shape of the values.
    """

    left: Tensor
    width: Tensor
    bottom: Tensor
    height: Tensor
    left_slope: Tensor
    right_slope: Tensor

    def value(self, x: Tensor) -> Tensor:
        """The ordinate at x within the piece."""
        t, s = (x - self.left) / self.width, self.height / self.width
        u = 1 - t
        return self.bottom + self.height * t * (s * t + self.left_slope * u) / self._divisor(t, s)

    def log_slope(self, x: Tensor) -> Tensor:
        """log dy/dx at x within the piece."""
        return self._log_slope((x - self.left) / self.width)

    def inverse(self, y: Tensor) -> Tensor:
        """The abscissa of y within the piece."""
        return self.left + self.width * self._fraction(y)

    def inverse_and_log_slope(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The abscissa of y within the piece, and log dy/dx there."""
        t = self._fraction(y)
        return self.left + self.width * t, self._log_slope(t)

    def _fraction(self, y: Tensor) -> Tensor:
        """The fraction t of the width where y lies.

        With p = (y − bottom)/height and q = 1 − p the ratio r = t/u solves
        qs·r² + m·r − ps = 0, m = qd₀ − pd₁: the quadratic of Durkan et al. 2019, eqs. 6-8, in a
        form whose discriminant m² + 4pqs² is a sum. Its root r = 2ps/(m + √) = (√ − m)/(2qs) has
        a form without a difference for either sign of m. At the ends t is exactly 0 and 1.
        """
        p, s = (y - self.bottom) / self.height, self.height / self.width
        q = 1 - p
        m = q * self.left_slope - p * self.right_slope
        rising = m > 0
        # Not abs(m), whose derivative at 0 belongs to neither branch.
        total = torch.where(rising, m, -m) + (m * m + 4 * p * q * s * s).sqrt()
        other = 2 * s * torch.where(rising, p, q)
        return torch.where(rising, other, total) / (other + total)

    def _log_slope(self, t: Tensor) -> Tensor:
        u, s = 1 - t, self.height / self.width
        mixed = self.right_slope * t * t + 2 * s * t * u + self.left_slope * u * u
        return 2 * (s.log() - self._divisor(t, s).log()) + mixed.log()

    def _divisor(self, t: Tensor, s: Tensor) -> Tensor:
        u = 1 - t
        return s * (t * t + u * u) + (self.left_slope + self.right_slope) * t * u


def slope_range(pieces: Piece) -> tuple[float, float]:
    """Numbers that all slopes of pieces lie between, within a few percent of the extreme ones."""
    t = torch.linspace(0, 1, _PARTS + 1, dtype=pieces.width.dtype, device=pieces.width.device)
    s, d0, d1 = ((v.unsqueeze(-1)) for v in (pieces.height / pieces.width, *_ends(pieces)))
    top = _bernstein(d0, s, d1, t)
    divisor = _bernstein(s, (d0 + d1) / 2, s, t)
    lowest = s * s * top.amin(0) / divisor.amax(0).square()
    highest = s * s * top.amax(0) / divisor.amin(0).square()
    return float(lowest.min()), float(highest.max())


def _ends(pieces: Piece) -> tuple[Tensor, Tensor]:
    return pieces.left_slope, pieces.right_slope


def _bernstein(a: Tensor, b: Tensor, c: Tensor, t: Tensor) -> Tensor:
    """Coefficients of a·u² + 2b·tu + c·t² on the parts between neighbouring t, u = 1 − t."""

    def blossom(p: Tensor, q: Tensor) -> Tensor:
        return a * (1 - p) * (1 - q) + b * (p * (1 - q) + q * (1 - p)) + c * p * q

    left, right = t[:-1], t[1:]
    return torch.stack([blossom(left, left), blossom(left, right), blossom(right, right)])
