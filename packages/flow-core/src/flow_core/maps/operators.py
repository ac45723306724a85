"""Linear maps on features: a matrix or a zero-padded convolution, told apart by the weight.

Matrices act on the last dimension, kernels `(out, in, k, k)` on images `(..., c, h, w)`. All take
any number of leading probe dimensions.
"""

import torch.nn.functional as F
from torch import Tensor

from flow_core.convolution import (
    same_conv2d,
    same_conv2d_transpose,
    same_conv2d_weight_gradient,
)


def channel_dim(weight: Tensor) -> int:
    """The dimension of the channels, counted from the end."""
    return -1 if weight.ndim == 2 else -3


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b."""
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    lead = x.shape[:-3]
    y = same_conv2d(x.reshape(-1, *x.shape[-3:]), weight, bias)
    return y.reshape(*lead, *y.shape[1:])


def affine_of_shared(t: Tensor, weight: Tensor) -> Tensor:
    """W t, formed once where an expanded t is the same for all samples, as unit vectors are."""
    batch = t.ndim - (2 if weight.ndim == 2 else 4)
    if t.shape[batch] < 2 or t.stride(batch) != 0:
        return affine(t, weight)
    image = affine(t.narrow(batch, 0, 1), weight)
    shape = list(image.shape)
    shape[batch] = t.shape[batch]
    return image.expand(shape)


def affine_transpose(g: Tensor, weight: Tensor) -> Tensor:
    """Wᵀ g."""
    if weight.ndim == 2:
        return g @ weight
    lead = g.shape[:-3]
    y = same_conv2d_transpose(g.reshape(-1, *g.shape[-3:]), weight)
    return y.reshape(*lead, *y.shape[1:])


def affine_weight_gradient(x: Tensor, g: Tensor, weight: Tensor) -> Tensor:
    """The gradient of ⟨W x, g⟩ by W."""
    if weight.ndim == 2:
        return g.mT @ x
    return same_conv2d_weight_gradient(x, g, weight)


def centre_tap(weight: Tensor) -> Tensor:
    """The centre tap of a kernel, or the matrix itself."""
    return weight if weight.ndim == 2 else weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
