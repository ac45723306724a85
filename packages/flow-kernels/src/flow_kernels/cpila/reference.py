"""CPila in plain torch: the definition, for any device, for compilers and for comparison.

Both functions consist of differentiable operations only. Orders count derivatives: 0 is the
value, 1 the slope and so on; output halves lie along `dim`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from flow_kernels.cpila.constants import NORMALIZER, OFFSET
from flow_kernels.pila import pila_derivatives


def derivatives(
    x: Float[Tensor, "*shape"], dim: int, order: int, count: int
) -> tuple[Float[Tensor, "*doubled"], ...]:
    """[p⁽ⁿ⁾(x − .2), (−1)ⁿ p⁽ⁿ⁾(−x − .2)] / 1.06 for n = order, …, order + count − 1."""
    first = pila_derivatives(x - OFFSET, order, count)
    second = pila_derivatives(-x - OFFSET, order, count)
    signs = [(-1.0) ** n for n in range(order, order + count)]
    return tuple(
        torch.cat((u / NORMALIZER, v * (sign / NORMALIZER)), dim)
        for u, v, sign in zip(first, second, signs, strict=True)
    )


def pullback(
    x: Float[Tensor, "*shape"], dim: int, order: int, cotangents: tuple[Tensor, ...]
) -> Float[Tensor, "*shape"]:
    """Sum over k and over both halves of cotangents[k] times derivative order + 1 + k at x."""
    slopes = derivatives(x, dim, order + 1, len(cotangents))
    total = cotangents[0] * slopes[0]
    for g, slope in zip(cotangents[1:], slopes[1:], strict=True):
        total = torch.addcmul(total, g, slope)
    first, second = total.chunk(2, dim)
    return first + second
