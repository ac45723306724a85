"""Spectral norms of published layers, beginning at the singular vectors that their files hold."""

from collections.abc import Mapping

import torch
from flow_core.lipschitz import GolubKahan
from flow_core.lipschitz.operators import ConvOperator, MatrixOperator, WeightOperator
from torch import Tensor

# Five of the longest cycles.
_PRODUCTS = 100


def effective_weight(state: Mapping[str, Tensor], layer: str, coeff: float) -> Tensor:
    """W / max(1, σ/coeff) of the stored vectors, as the program computes it."""
    return state[f"{layer}.weight"] / (norm_estimate(state, layer) / coeff).clamp(min=1.0)


def norm_estimate(state: Mapping[str, Tensor], layer: str) -> Tensor:
    """σ = uᵀ A(W) v of the stored vectors: at most the norm of A(W)."""
    return torch.dot(
        state[f"{layer}.u"], _operator(state, layer).apply(state[f"{layer}.v"][None])[0]
    )


def with_settled_vectors(state: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    """The state with the singular vectors of the weight as it is, found from the stored ones."""
    start = state[f"{layer}.v"][None]
    u, v = GolubKahan().refine(_operator(state, layer), start, _PRODUCTS)
    return {**state, f"{layer}.u": u[0], f"{layer}.v": v[0]}


def effective_norm(state: Mapping[str, Tensor], layer: str, coeff: float) -> float:
    """The norm of a layer with its effective weight; the bound itself on the meta device."""
    weight = effective_weight(state, layer, coeff)
    if weight.is_meta:
        return coeff
    return float(
        norm_estimate(with_settled_vectors({**state, f"{layer}.weight": weight}, layer), layer)
    )


def _operator(state: Mapping[str, Tensor], layer: str) -> WeightOperator:
    """A(W): a matrix, which a 1x1 kernel is too, or a convolution on maps of the stored size."""
    weight = state[f"{layer}.weight"]
    if weight.ndim == 2 or weight.shape[-1] == 1:
        return MatrixOperator(weight.flatten(1)[None])
    height, width = (int(size) for size in state[f"{layer}.spatial_dims"].tolist())
    return ConvOperator(weight, (height, width))
