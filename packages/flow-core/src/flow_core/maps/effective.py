"""Effective weights of nets of one shape, several at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flow_core.lipschitz.batching import divisors


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
    sigmas: Sequence[Tensor],
    coeffs: Sequence[float],
    scales: Sequence[Tensor] | None,
) -> tuple[Tensor, ...]:
    """W diag(s)/max(1, σ/coeff) of every layer, its weights stacked over nets of one shape.

    Args:
        weights: Raw weights of each layer, stacked.
        sigmas: Estimates of their norms, stacked.
        coeffs: Of each layer.
        scales: Factors s of the input channels of each layer, stacked; None for ones.
    """
    sizes = [divisors(*layer) for layer in zip(sigmas, coeffs, strict=True)]
    if scales is None:
        factors = [d.reciprocal().unsqueeze(1) for d in sizes]
    else:
        factors = [s / d.unsqueeze(1) for s, d in zip(scales, sizes, strict=True)]
    return tuple(_scale_inputs(w, f) for w, f in zip(weights, factors, strict=True))


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


def _scale_inputs(weights: Tensor, scales: Tensor) -> Tensor:
    """W diag(scales) of stacked weights: one factor per net and input channel, or one per net."""
    return weights * scales.view(len(scales), 1, -1, *(1,) * (weights.ndim - 3))
