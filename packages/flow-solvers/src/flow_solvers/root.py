"""The first derivative of a solution, as one function that a map may compile."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from flow_solvers import samples
from flow_solvers.maps import BoundMap
from flow_solvers.pull_back import pull_back_to
from flow_solvers.shifted import solve_refined


class Demand(NamedTuple):
    """Which tensors of G need a gradient, and |g - v - Jᵀv| ≤ rtol·|g| for solved systems."""

    needed: tuple[bool, ...]
    rtol: float


def pull_root(
    bound: BoundMap,
    w: Float[Tensor, " batch *shape"],
    jacobian: Float[Tensor, " batch dim dim"],
    cotangents: tuple[Tensor, Tensor | None],
    demand: Demand,
) -> tuple[Tensor, ...]:
    """Gradients of ⟨w, a⟩ + ⟨J(w), A⟩ at w + G(w) = x, by x and the tensors, for (a, A).

    With g = a + ∂⟨J, A⟩/∂w and (I + Jᵀ) v = g they are v and ∂⟨J, A⟩/∂θ - vᵀ ∂G/∂θ.

    Args:
        bound: G.
        w: The solution.
        jacobian: J at w.
        cotangents: a and A; None for A stands for zero.
        demand: What is asked for.

    Returns:
        The number of systems that were not solved, v, and the gradients that are needed.
    """
    along, direct = _right_hand_side(bound, w, cotangents, demand.needed)
    rhs = samples.flat(along)
    rows, missed = solve_refined(jacobian.mT, rhs)
    failures = (missed <= demand.rtol * samples.norm(rhs)).logical_not().sum()
    solved = rows.reshape(w.shape)
    if not any(demand.needed):
        return failures, solved
    _, *through = pull_back_to(bound, w, (-solved, None), (False, *demand.needed))
    return failures, solved, *_sums(direct, through)


def _right_hand_side(
    bound: BoundMap,
    w: Float[Tensor, " batch *shape"],
    cotangents: tuple[Tensor, Tensor | None],
    needed: tuple[bool, ...],
) -> tuple[Tensor, list[Tensor | None]]:
    """g, and ∂⟨J, A⟩/∂θ."""
    along, along_jacobian = cotangents
    if along_jacobian is None:
        return along, [None for _ in needed]
    by_w, *direct = pull_back_to(bound, w, (None, along_jacobian), (True, *needed))
    return (along if by_w is None else along + by_w), direct


def _sums(direct: list[Tensor | None], through: list[Tensor | None]) -> list[Tensor]:
    """The sums of the gradients that are needed."""
    pairs = zip(direct, through, strict=True)
    return [b if a is None else a + b for a, b in pairs if b is not None]
