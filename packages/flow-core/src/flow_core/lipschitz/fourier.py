"""An upper bound of the norm of a zero-padded convolution from twisted circular ones.

On a torus of N >= n + size // 2 positions a circular convolution does not wrap around between any
two positions of the n x n map, so the zero-padded operator is a compression of it and its norm is
no larger. The same holds where the torus is twisted, x(p + N) = exp(2 pi i theta) x(p): the
frequencies are then 2 pi (j + theta) / N. Norms of circular operators are maxima over frequencies
of the norm of the symbol (Sedghi et al. 2019). Each twist is a proof; the least bound is kept:
theta = 1/2 avoids the frequency 0, where smooth kernels have a norm that no finite map reaches.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from flow_core.lipschitz.gram import (
    EPS,
    FIRST_MARGIN,
    Kernel,
    cholesky_rounding,
    lag_range,
    narrow_side_last,
    product_rounding,
    proven_below,
    tap_products,
)
from flow_core.lipschitz.spectral import positive

TWISTS = ((0.5, 0.5), (0.0, 0.5), (0.5, 0.0), (0.0, 0.0))
POWER_STEPS = 20


def fourier_norm(kernel: Kernel, map_size: tuple[int, int]) -> float:
    """The least bound over the twists."""
    kernel = narrow_side_last(kernel)
    lags = lag_sums(kernel)
    reach = kernel.shape[-1] // 2
    torus = (map_size[0] + reach, map_size[1] + reach)
    symbols = (GramSymbol(lags, torus, twist) for twist in TWISTS)
    largest = min(symbol_bound(symbol) for symbol in symbols)
    # Twiddle factors are off by a few eps each; product_rounding covers sums of size² of them.
    return math.sqrt(largest + 4 * product_rounding(kernel)) * (1 + 4 * EPS)


def lag_sums(kernel: Kernel) -> Float64[Tensor, "reach reach columns columns"]:
    """C_lag = sum over t of K_tᵀ K_{t + lag}, the coefficients of the symbol of AᵀA."""
    products, size = tap_products(kernel), kernel.shape[-1]
    columns, lags = kernel.shape[1], range(1 - size, size)
    sums = kernel.new_zeros(len(lags), len(lags), columns, columns)
    for down in lags:
        for right in lags:
            for i in lag_range(size, down):
                for j in lag_range(size, right):
                    sums[down + size - 1, right + size - 1] += products[
                        i, j, :, i + down, j + right
                    ]
    return sums


@dataclass(frozen=True)
class GramSymbol:
    """The trigonometric polynomial sum over lags of C_lag exp(i omega . lag) on a twisted grid."""

    lags: Float64[Tensor, "reach reach columns columns"]
    torus: tuple[int, int]
    twist: tuple[float, float]

    def waves(self, axis: int) -> Complex128[Tensor, "frequencies reach"]:
        """exp(i omega lag) on one axis."""
        reach = len(self.lags) // 2
        omega = torch.arange(self.torus[axis], dtype=torch.float64) + self.twist[axis]
        omega = omega * (2 * math.pi / self.torus[axis])
        lag = torch.arange(-reach, reach + 1, dtype=torch.float64)
        return torch.polar(torch.ones(()).double(), torch.outer(omega, lag)).to(self.lags.device)

    def rows(self) -> int:
        """Frequencies of the first axis that conjugate symmetry leaves to look at."""
        return self.torus[0] // 2 + 1

    def row(self, index: int) -> Complex128[Tensor, "frequencies columns columns"]:
        """The Gram matrices at one frequency of the first axis and all of the second."""
        first = torch.einsum("a,abcd->bcd", self.waves(0)[index], self.lags.to(torch.complex128))
        return torch.einsum("fb,bcd->fcd", self.waves(1), first)


def symbol_bound(symbol: GramSymbol) -> float:
    """A proven bound of the largest eigenvalue over the grid, row by row.

    Only the matrices that a bound proven for the rows before does not cover raise it.
    """
    bound = EPS  # symbols may vanish; the kernel is scaled to largest entry 1
    for index in range(symbol.rows()):
        bound = raised_bound(symbol.row(index), bound)
    return bound + cholesky_rounding(symbol.lags.shape[-1], bound)


def raised_bound(grams: Complex128[Tensor, "frequencies side side"], bound: float) -> float:
    """A bound >= `bound` > 0 that Cholesky proves for all matrices, as small as can be found."""
    margin = FIRST_MARGIN
    open_grams = grams[~proven_below(grams, bound)]
    while len(open_grams):
        bound = max(bound, power_estimate(open_grams)) * (1 + margin)
        open_grams = open_grams[~proven_below(open_grams, bound)]
        margin *= 2
    return bound


def power_estimate(grams: Complex128[Tensor, "frequencies side side"]) -> float:
    """The largest eigenvalue of all, from below, by power iteration from the heaviest columns."""
    heaviest = torch.linalg.vector_norm(grams, dim=1).argmax(dim=1)
    x = grams[torch.arange(len(grams), device=grams.device), :, heaviest].unsqueeze(-1)
    growth = grams.new_zeros(len(grams), 1, 1).real
    for _ in range(POWER_STEPS):
        x = grams @ (x / positive(torch.linalg.vector_norm(x, dim=1, keepdim=True)))
        growth = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return float(growth.max())
