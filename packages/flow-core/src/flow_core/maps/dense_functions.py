"""A dense net as pure functions of its folded weights.

h₀ = w, hᵢ₊₁ = [hᵢ, φᵢ(Wᵢ hᵢ + bᵢ + cᵢ)], G(w) = W hᴅ + b. The weights of the learnable
concatenation are folded into the columns of the Wᵢ beforehand: one evaluation then scales nothing.
"""

from collections.abc import Sequence

import torch
from flow_kernels.autograd import is_transformed
from jaxtyping import Float
from torch import Tensor

from flow_core.lipschitz.batching import divisors
from flow_core.maps.bound_activation import BoundActivation
from flow_core.maps.operators import (
    affine,
    affine_transpose,
    channel_dim,
    scale_inputs,
    through,
    through_transpose,
)


def concatenation(
    logits: Float[Tensor, "*nets depth 2"], bound: float
) -> Float[Tensor, "*nets depth 2"]:
    """Weights of the learnable concatenation [η₁ h, η₂ φ], with η₁² + η₂² = bound².

    ηᵢ = softplus(Kᵢ) + 0.1, normalised. Source: Perugachi-Diaz et al. 2021 (i-DenseNets), §3.2.
    """
    eta = torch.nn.functional.softplus(logits) + 0.1
    norm: Tensor = torch.linalg.vector_norm(eta, dim=-1, keepdim=True)
    return bound * eta / norm


def effective(
    weights: Sequence[Tensor],
    directions: Sequence[Tensor],
    coeffs: Sequence[float],
    logits: Float[Tensor, "nets depth 2"],
    bound: float,
) -> tuple[Tensor, ...]:
    """Normalised weights with the concatenation folded in, of several equal nets at once.

    Every layer's weights and directions are stacked over the nets, which share its coefficient.
    """
    scales = input_scales([w.shape[2] for w in weights], concatenation(logits, bound))
    scaled_down = [divisors(*layer) for layer in zip(weights, directions, coeffs, strict=True)]
    factors = [s / d.unsqueeze(1) for s, d in zip(scales, scaled_down, strict=True)]
    return tuple(scale_inputs(w, f) for w, f in zip(weights, factors, strict=True))


def input_scales(
    widths: Sequence[int], eta: Float[Tensor, "nets depth 2"]
) -> list[Float[Tensor, "nets channels"]]:
    """What the columns of each layer are multiplied with instead of concatenating scaled features.

    What layer j wrote reaches layer i scaled by η₂ⱼ Πⱼ﹤ₘ﹤ᵢ η₁ₘ, the input by Πₘ﹤ᵢ η₁ₘ.
    """
    keep, write = torch.split(eta, 1, dim=2)
    scales = [eta.new_ones(len(eta), widths[0])]
    for i, width in enumerate(widths[1:]):
        written = write[:, i].expand(-1, width - widths[i])
        scales.append(torch.cat([keep[:, i] * scales[i], written], 1))
    return scales


def dense_value(
    w: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    features: Sequence[Tensor],
    activations: Sequence[BoundActivation],
) -> Tensor:
    """G(w)."""
    h, dim = w, channel_dim(weights[0])
    for i, activation in enumerate(activations):
        a = _shifted(affine(h, weights[i], biases[i]), features, i)
        h = torch.cat([h, activation.value(a, dim)], dim)
    return affine(h, weights[-1], biases[-1])


def dense_value_and_slopes(
    w: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    features: Sequence[Tensor],
    activations: Sequence[BoundActivation],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """G(w) and the derivatives φ'ᵢ of every activation: all that products with J need."""
    h, dim = w, channel_dim(weights[0])
    slopes: list[Tensor] = []
    for i, activation in enumerate(activations):
        a = _shifted(affine(h, weights[i], biases[i]), features, i)
        value, slope = activation.value_and_slope(a, dim)
        h = torch.cat([h, value], dim)
        slopes.append(slope)
    return affine(h, weights[-1], biases[-1]), tuple(slopes)


def dense_jvp(
    t: Tensor, weights: Sequence[Tensor], slopes: Sequence[Tensor]
) -> Float[Tensor, "*probes"]:
    """J t; probes in front."""
    dim = channel_dim(weights[0])
    for weight, slope in zip(weights[:-1], slopes, strict=True):
        t = torch.cat([t, through(affine(t, weight), slope, dim)], dim)
    return affine(t, weights[-1])


def dense_vjp(
    g: Tensor, weights: Sequence[Tensor], slopes: Sequence[Tensor]
) -> Float[Tensor, "*probes"]:
    """Jᵀ g; probes in front."""
    dim = channel_dim(weights[0])
    g = affine_transpose(g, weights[-1])
    for weight, slope in zip(reversed(weights[:-1]), reversed(slopes), strict=True):
        width = slope.shape[dim]
        kept, written = torch.split(g, [g.shape[dim] - width, width], dim)
        ga = through_transpose(written, slope, weight.shape[0], dim)
        g = kept + affine_transpose(ga, weight)
    return g


def dense_value_and_jacobian(
    w: Float[Tensor, "batch dim"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    features: Sequence[Tensor],
    activations: Sequence[BoundActivation],
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim dim"]]:
    """G(w) and the whole J of a matrix net by forward mode, for small dimension.

    Works on `(channels, 1 + dim, batch)`: row 0 carries the value and the others the unit
    tangents, so that a layer is one product; the batch comes last because layers are narrow.
    """
    recorded = torch.is_grad_enabled() or is_transformed() or torch.compiler.is_compiling()
    join = _joined if recorded else _JoinedInPlace(weights[-1].shape[1], w)
    batch, d = w.shape
    units = torch.eye(d, dtype=w.dtype, device=w.device).unsqueeze(-1).expand(d, d, batch)
    h = join(None, w.T, units)
    for i, activation in enumerate(activations):
        value, tangents = _layer_rows(h, weights[i], biases[i])
        value = value + features[i].T if features else value
        value, slope = activation.value_and_slope(value, 0)
        h = join(h, value, (_copies(slope, len(tangents)) * tangents).flatten(0, 1))
    value, tangents = _layer_rows(h, weights[-1], biases[-1])
    return value.T, tangents.permute(2, 0, 1)


def _copies(
    slope: Float[Tensor, "write batch"], width: int
) -> Float[Tensor, "copies width 1 batch"]:
    """The slopes of the copies that a concatenating activation makes of its input."""
    write, batch = slope.shape
    return slope.view(write // width, width, 1, batch)


def _joined(
    h: Float[Tensor, "read rows batch"] | None,
    value: Float[Tensor, "write batch"],
    tangents: Float[Tensor, "write dim batch"],
) -> Float[Tensor, "channels rows batch"]:
    """h and below it [value, tangents]."""
    rows = torch.cat([value.unsqueeze(1), tangents], 1)
    return rows if h is None else torch.cat([h, rows])


class _JoinedInPlace:
    """`_joined` without a copy of h: what a layer writes follows h in memory."""

    def __init__(self, channels: int, w: Float[Tensor, "batch dim"]) -> None:
        batch, d = w.shape
        self._room = w.new_empty(channels, 1 + d, batch)

    def __call__(
        self,
        h: Float[Tensor, "read rows batch"] | None,
        value: Float[Tensor, "write batch"],
        tangents: Float[Tensor, "write dim batch"],
    ) -> Float[Tensor, "channels rows batch"]:
        start = 0 if h is None else len(h)
        rows = self._room[start : start + len(value)]
        rows[:, 0], rows[:, 1:] = value, tangents
        return self._room[: start + len(value)]


def _layer_rows(
    h: Float[Tensor, "channels rows batch"], weight: Tensor, bias: Tensor
) -> tuple[Float[Tensor, "out batch"], Float[Tensor, "out dim batch"]]:
    rows = (weight @ h.flatten(1)).view(weight.shape[0], *h.shape[1:])
    return rows[:, 0] + bias.unsqueeze(1), rows[:, 1:]


def _shifted(a: Tensor, features: Sequence[Tensor], i: int) -> Tensor:
    return a + features[i] if features else a
