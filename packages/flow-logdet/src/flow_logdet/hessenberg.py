"""Functions of small upper Hessenberg matrices, without factorizations.

For a Krylov basis V of Jᵀ with H = VᵀJᵀV and ‖J‖ < 1, everything that a log-determinant needs
follows from first columns of resolvents y(t) = (I + t·H)⁻¹e₁, because

    log(1 + s·z) = ∫₀¹ s·z / (1 + t·s·z) dt.

The symmetric part of I + t·H is positive definite, so elimination needs no pivots; a Hessenberg
matrix needs one vector operation per column, done for all samples and nodes at once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_logdet.kinds import Kind

NODES = 32


def _rule() -> tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]]:
    """Nodes and weights on [0, 1] after t = 1 - u³.

    The substitution keeps the poles t = 1/|z|, which approach 1 as ‖J‖ does, away from the nodes.
    """
    x, w = np.polynomial.legendre.leggauss(NODES)
    u = torch.from_numpy((x + 1) / 2)
    return 1 - u**3, 1.5 * torch.from_numpy(w) * u**2


_NODES, _WEIGHTS = _rule()
# The last time, t = 1, is no node: it gives the derivative.
_TIMES = torch.cat([_NODES, torch.ones_like(_NODES[:1])])


@dataclass(frozen=True)
class FirstColumns:
    """f(H)e₁ and f'(H)e₁ with what they miss of f(Jᵀ)ε and f'(Jᵀ)ε.

    Attributes:
        function: f(H)e₁; its first entry times ‖ε‖² is the quadrature of εᵀf(J)ε.
        derivative: f'(H)e₁.
        remainder: Factor of the next subdiagonal entry h in the residual norms: the error of
            εᵀf(J)ε is at most ‖ε‖²·h·remainder/(1 - L), and the residual of the solves behind
            f'(Jᵀ)ε at most ‖ε‖·h·remainder, for ‖J‖ ≤ L.
        error: Σ ∫ |last entry of y(t)|·|y(t)| dt: the error of εᵀf(J)ε is at most about
            ‖ε‖²·h·error where J is normal, because ‖(I + t·J)⁻¹ε‖ = ‖(I + t·Jᵀ)⁻¹ε‖ there.
    """

    function: Float[Tensor, " batch steps"]
    derivative: Float[Tensor, " batch steps"]
    remainder: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]


def first_columns(hessenberg: Float[Tensor, " batch steps steps"], kind: Kind) -> FirstColumns:
    """f(H)e₁ and f'(H)e₁ by Gauss-Legendre quadrature and Hessenberg elimination, in float64.

    With 32 nodes clustered at t = 1 the error is below 1e-10 for ‖H‖ ≤ .99 and 1e-6 for .999.

    Args:
        hessenberg: H per sample, with ‖H‖ < 1.
        kind: Which f.
    """
    hessenberg = in_float64(hessenberg)
    times, weights = _TIMES.to(hessenberg.device), _WEIGHTS.to(hessenberg.device)
    function = derivative = torch.zeros_like(hessenberg[..., 0])
    remainder = error = function[:, 0]
    for s, c in kind.pairs:
        columns = resolvent_columns(hessenberg, s * times)
        integral = torch.tensordot(weights, columns[:-1], dims=1)
        function = function + c * s * integral
        derivative = derivative + c * s * columns[-1]
        last = columns[..., -1].abs()
        remainder = remainder + torch.maximum(weights @ last[:-1], last[-1])
        error = error + weights @ (last * columns.norm(dim=-1))[:-1]
    function = (hessenberg @ function.unsqueeze(-1)).squeeze(-1)
    return FirstColumns(function=function, derivative=derivative, remainder=remainder, error=error)


def resolvent_columns(
    hessenberg: Float[Tensor, " batch steps steps"], times: Float[Tensor, " nodes"]
) -> Float[Tensor, " nodes batch steps"]:
    """(I + t·H)⁻¹e₁ for every t.

    Columns are eliminated from the last one to the first: what remains is lower bidiagonal, so the
    solution is a cumulative product of ratios. A zero subdiagonal entry (an invariant subspace)
    ends the product and hides everything behind it.
    """
    steps = hessenberg.shape[-1]
    scale = times.view(-1, 1, 1)
    column = _column(hessenberg, scale, steps - 1)
    factors: list[Tensor] = []
    for k in range(steps - 1, 0, -1):
        ratio = scale[..., 0] * hessenberg[..., k, k - 1] / column[..., k]
        column = _column(hessenberg, scale, k - 1) - ratio.unsqueeze(-1) * column[..., :k]
        factors.append(-ratio)
    factors.append(column[..., 0].reciprocal())
    return torch.stack(factors[::-1], dim=-1).cumprod(-1)


def solve_remainder(
    hessenberg: Float[Tensor, " batch steps steps"], kind: Kind
) -> Float[Tensor, " batch"]:
    """The part of `FirstColumns.remainder` that belongs to f'(Jᵀ)ε: cheap, and a lower bound."""
    hessenberg = in_float64(hessenberg)
    signs = torch.tensor([s for s, _ in kind.pairs], dtype=torch.float64, device=hessenberg.device)
    return resolvent_columns(hessenberg, signs)[..., -1].abs().sum(0)


def _column(
    hessenberg: Float[Tensor, " batch steps steps"], scale: Float[Tensor, " nodes 1 1"], k: int
) -> Float[Tensor, " nodes batch rows"]:
    """The upper triangular part of column k of I + t·H."""
    column = scale * hessenberg[..., : k + 1, k]
    column[..., k] += 1
    return column
