"""One sandwich layer of several nets, and how layers fold into the weights of a plain net."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt

import torch
from jaxtyping import Float64
from torch import Tensor

SQRT2 = sqrt(2.0)
ROUNDING = 1e-12  # of what is computed in float64

Weights = list[Float64[Tensor, "_ _ _"]]
"""Of every layer, stacked over nets."""


@dataclass(frozen=True)
class Sandwich:
    """h -> √2·A p σ(√2·p⁻¹ Bᵀ h + b), without its shift b, in float64.

    Attributes:
        v: [A; B], a contraction; the first `outputs` rows are A.
        scale: p > 0.
        outputs: What the layer writes.
    """

    v: Float64[Tensor, "nets rows width"]
    scale: Float64[Tensor, "nets width"]
    outputs: int

    @property
    def write(self) -> Float64[Tensor, "nets outputs width"]:
        """√2·A p."""
        return SQRT2 * self.v[:, : self.outputs] * self.scale.unsqueeze(1)

    @property
    def read(self) -> Float64[Tensor, "nets width inputs"]:
        """√2·p⁻¹ Bᵀ."""
        return SQRT2 * self.v[:, self.outputs :].mT / self.scale.unsqueeze(2)

    def excess(self) -> float:
        """How far ‖V‖² may exceed 1."""
        tall = self.v if self.v.shape[1] >= self.v.shape[2] else self.v.mT
        unit = torch.eye(tall.shape[2], dtype=tall.dtype, device=tall.device)
        return _norm(tall.mT @ tall - unit)


def folded(layers: Sequence[Sandwich], first: float, last: Float64[Tensor, " nets"]) -> Weights:
    """Weights W of first·h₀ = x, hᵢ₊₁ = σ(Wᵢhᵢ + bᵢ), y = W h, times `last`."""
    writes = [layer.write for layer in layers]
    between = [layer.read @ write for layer, write in zip(layers[1:], writes, strict=False)]
    return [first * layers[0].read, *between, last.view(-1, 1, 1) * writes[-1]]


def lipschitz_bound(
    layers: Sequence[Sandwich], exact: Weights, rounded: Weights, first: float, last: float
) -> float:
    """A Lipschitz constant of one net with these rounded weights: first·last, and what they add.

    Every layer contributes 1 + excess of ‖V‖². An error E of a weight lies between parts of the net
    that stretch by √2 at most, in units in which the scales p are 1: it adds 2‖pEp⁻¹‖, relative to
    the whole, or √2‖pEp⁻¹‖ to first or last. Errors of several weights multiply, for what lies
    between two of them stretches by 2.
    """
    scales = [layer.scale[0] for layer in layers]
    errors = [(r.double() - e)[0] for r, e in zip(rounded, exact, strict=True)]
    bound = first + SQRT2 * _norm(scales[0].unsqueeze(1) * errors[0])
    for before, after, error in zip(scales, scales[1:], errors[1:-1], strict=False):
        bound *= 1 + 2 * _norm(after.unsqueeze(1) * error / before)
    bound *= last + SQRT2 * _norm(errors[-1] / scales[-1])
    return bound * prod(1 + layer.excess() for layer in layers) * (1 + ROUNDING)


def _norm(matrix: Float64[Tensor, "*one rows columns"]) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2).max())
