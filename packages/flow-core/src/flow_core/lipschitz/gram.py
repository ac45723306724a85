"""Gram matrices of zero-padded convolutions, and proven bounds of their largest eigenvalue.

All in float64. Every bound includes the rounding of its own computation: `eps` below is the
float64 spacing at 1, twice the unit roundoff, so that a plain multiple of it covers the factors
gamma_n = n u / (1 - n u) of Higham 2002, "Accuracy and Stability of Numerical Algorithms".
"""

import torch
from jaxtyping import Bool, Complex128, Float64
from torch import Tensor

Kernel = Float64[Tensor, "rows columns size size"]
TapProducts = Float64[Tensor, "size size columns size size columns"]

EPS = torch.finfo(torch.float64).eps
EIGENVALUE_SIDE = 768  # up to here all eigenvalues are as cheap as a proof by Cholesky
FIRST_MARGIN = 1e-3


def narrow_side_last(kernel: Kernel) -> Float64[Tensor, "long short size size"]:
    """The kernel, or that of the adjoint operator, with columns <= rows; the norm is the same.

    The adjoint of a zero-padded convolution of stride 1 with an odd kernel is such a convolution
    with the transposed and flipped kernel.
    """
    if kernel.shape[1] <= kernel.shape[0]:
        return kernel
    return kernel.transpose(0, 1).flip(2, 3)


def tap_products(kernel: Kernel) -> TapProducts:
    """K_tᵀ K_s for every pair of taps t, s."""
    rows, columns, size, _ = kernel.shape
    taps = kernel.permute(0, 2, 3, 1).reshape(rows, -1)
    return (taps.mT @ taps).view(size, size, columns, size, size, columns)


def product_rounding(kernel: Kernel) -> float:
    """Bound of the rounding errors of the entries of a Gram matrix, as an operator norm.

    At most size² taps meet at a position; their products are sums over the rows:
    |error| <= gamma |K|ᵀ|K|, whose norm is at most (size |K|_F)².
    """
    rows, _, size, _ = kernel.shape
    frobenius = float(torch.linalg.vector_norm(kernel))
    return 4 * (rows + size**2 + 4) * EPS * (size * frobenius) ** 2


def lag_range(size: int, lag: int) -> range:
    """The first coordinates t of taps with both t and t + lag inside the kernel."""
    return range(max(0, -lag), min(size, size - lag))


def inside(tap: int, size: int, lag: int, length: int) -> Float64[Tensor, " positions"]:
    """Which inputs p (with p + lag on the map too) does this tap read for an output on the map."""
    positions = torch.arange(max(0, -lag), min(length, length - lag))
    outputs = positions - tap + size // 2
    return ((outputs >= 0) & (outputs < length)).double()


def zero_padded_gram(kernel: Kernel, map_size: tuple[int, int]) -> Float64[Tensor, "side side"]:
    """AᵀA of the zero-padded convolution A on maps of this size.

    Output y reads input p = y + t - size // 2 through tap t, so inputs p and p + lag meet in
    sum over t of K_tᵀ K_{t + lag}, over those t whose output is on the map.
    """
    (height, width), (_, columns, size, _) = map_size, kernel.shape
    products = tap_products(kernel)
    gram = kernel.new_zeros(columns, height, width, columns, height, width)
    reach = range(1 - size, size)
    for down in (lag for lag in reach if abs(lag) < height):
        for right in (lag for lag in reach if abs(lag) < width):
            block = lag_block(products, (down, right), map_size)
            diagonal = gram.diagonal(down, 1, 4).diagonal(right, 1, 3)
            diagonal.copy_(block.view(diagonal.shape))
    side = columns * height * width
    return gram.view(side, side)


def lag_block(
    products: TapProducts, lag: tuple[int, int], map_size: tuple[int, int]
) -> Float64[Tensor, "columns_squared positions"]:
    """The entries of the Gram matrix that couple p with p + lag, for all such p."""
    size, (down, right), (height, width) = products.shape[0], lag, map_size
    pairs: list[Tensor] = []
    masks: list[Tensor] = []
    for i in lag_range(size, down):
        vertical = inside(i, size, down, height).to(products.device)
        for j in lag_range(size, right):
            horizontal = inside(j, size, right, width).to(products.device)
            pairs.append(products[i, j, :, i + down, j + right].flatten())
            masks.append(torch.outer(vertical, horizontal).flatten())
    return torch.stack(pairs, 1) @ torch.stack(masks)


def all_eigenvalues_bound(gram: Float64[Tensor, "side side"]) -> float:
    """The largest eigenvalue, plus the backward error of the eigenvalue routine."""
    largest = float(torch.linalg.eigvalsh(gram)[-1])
    return largest + 8 * len(gram) * EPS * abs(largest)


def proven_below(
    gram: Float64[Tensor, "*batch side side"] | Complex128[Tensor, "*batch side side"], bound: float
) -> Bool[Tensor, "*batch"]:
    """For which matrices Cholesky of bound I - gram succeeds.

    Success proves lambda_max <= bound + `cholesky_rounding(side, bound)` (Demmel 1989; Rump 2006,
    "Verification of positive definiteness").
    """
    shifted = -gram
    shifted.diagonal(dim1=-2, dim2=-1).add_(bound)
    failures: Tensor = torch.linalg.cholesky_ex(shifted)[1]
    return failures == 0


def cholesky_rounding(side: int, bound: float) -> float:
    """How far below zero the least eigenvalue of a matrix with a Cholesky factor can be.

    gamma_{side + 1} times the trace of bound I - gram; complex arithmetic costs a factor 2 sqrt 2.
    """
    return 4 * (side + 1) * EPS * side * bound


def cholesky_bound(gram: Float64[Tensor, "side side"], estimate: float) -> float:
    """A proven bound of the largest eigenvalue, close to an estimate of it from below.

    The kernel is scaled to largest entry 1, so `EPS` is nothing beside it, and ends the search
    where the map is too small for any entry to act.
    """
    margin, start = FIRST_MARGIN, max(estimate, EPS)
    while not bool(proven_below(gram, start * (1 + margin))):
        margin *= 2
    bound = start * (1 + margin)
    return bound + cholesky_rounding(len(gram), bound)
