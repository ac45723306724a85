"""Linear maps on features: a matrix or a zero-padded convolution, told apart by the weight.

Matrices act on the last dimension, kernels `(out, in, k, k)` on images `(..., c, h, w)`. All take
any number of leading probe dimensions.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flow_core.lipschitz import LipschitzLayer


def channel_dim(weight: Tensor) -> int:
    """The dimension of the channels, counted from the end."""
    return -1 if weight.ndim == 2 else -3


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b."""
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    lead = x.shape[:-3]
    y = F.conv2d(x.reshape(-1, *x.shape[-3:]), weight, bias, padding=_padding(weight))
    return y.reshape(*lead, *y.shape[1:])


def affine_transpose(g: Tensor, weight: Tensor) -> Tensor:
    """Wᵀ g."""
    if weight.ndim == 2:
        return g @ weight
    lead = g.shape[:-3]
    y = F.conv_transpose2d(g.reshape(-1, *g.shape[-3:]), weight, padding=_padding(weight))
    return y.reshape(*lead, *y.shape[1:])


def bias_of(layer: LipschitzLayer) -> Tensor:
    """The bias of a layer that has one, as every layer of a map does."""
    if layer.bias is None:
        raise ValueError(f"expected a layer with a bias, got {layer}")
    return layer.bias


def scale_inputs(weights: Tensor, scales: Tensor) -> Tensor:
    """W diag(scales) of stacked weights: one factor per net and input channel."""
    return weights * scales.view(len(scales), 1, -1, *(1,) * (weights.ndim - 3))


def spread(t: Tensor, expansion: int, dim: int) -> Tensor:
    """Repeat a tangent for each output of a concatenating activation."""
    return t if expansion == 1 else torch.cat([t] * expansion, dim)


def gather(g: Tensor, expansion: int, dim: int) -> Tensor:
    """The transpose of `spread`: add the parts up."""
    if expansion == 1:
        return g
    parts: Sequence[Tensor] = g.chunk(expansion, dim)
    return torch.stack(tuple(parts)).sum(0)


def _padding(weight: Tensor) -> tuple[int, int]:
    return weight.shape[-2] // 2, weight.shape[-1] // 2
