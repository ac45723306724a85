"""Fixed points by a given number of steps, with gradients through all of them."""

from dataclasses import dataclass
from typing import final

import torch
from flow_solvers import (
    BoundMap,
    DerivativeListener,
    Solution,
    Status,
    require_integer,
)
from jaxtyping import Float
from torch import Tensor

from flow_core.settings import Solve


@final
@dataclass(frozen=True)
class UnrolledSolve(Solve):
    """w₀ = x, then w ← x − G(w) so many times, all of it in the graph of autograd.

    The attack of Behrmann et al. 2021 follows gradients like this. They are those of what was
    computed, however far that is from the solution, and need memory for every step; those of
    `Solve` belong to the solution. Whether a sample was solved is in its status, and nothing is
    ever raised: solver, adjoint and `on_failure` have no say. The published setting of four
    iterations runs five.

    Attributes:
        steps: Evaluations of G.

    Raises:
        TypeError: It is no integer.
        ValueError: There is none.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("steps", self.steps, 1)

    def __call__(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        listener: DerivativeListener | None = None,
        *,
        linearized: bool = False,
    ) -> Solution:
        """The last w, with its residual."""
        w = x
        for _ in range(self.steps):
            w = x - bound(w)
        with torch.no_grad():
            at_w = bound(w)
            missed, size = _rms(x - w - at_w), _rms(x) + _rms(w) + _rms(at_w)
        allowed = self.tolerance.relative(x.dtype) * size + self.tolerance.atol
        status = torch.full_like(missed, Status.BUDGET, dtype=torch.int64)
        status[missed <= allowed] = Status.CONVERGED
        status[~missed.isfinite()] = Status.NONFINITE
        calls = self.steps + 1
        return Solution(
            value=w,
            residual=missed,
            evaluations=torch.full_like(status, calls),
            status=status,
            error_bound=None,
            calls=calls,
        )


def _rms(values: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
    return values.detach().reshape(len(values), -1).square().mean(1).sqrt()
