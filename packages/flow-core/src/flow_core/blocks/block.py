"""What residual, implicit and monotone blocks share."""

from collections.abc import Generator
from contextlib import contextmanager
from math import prod

import torch
from flow_logdet import Estimator, Exact, Kind, default_estimator
from flow_solvers import BoundMap, Linearization, Solution, SolverError
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection, Context
from flow_core.blocks.solve import Solve
from flow_core.maps import LipschitzMap
from flow_core.record import derivative_listener, post_log_det, post_solution


class FixedPointBlock(Bijection):
    """A bijection that solves a fixed point in at least one direction.

    The log-determinant estimator is chosen from outside (`with_estimator`) and is not part of the
    state; by default it is exact in small dimension, see `flow_logdet.default_estimator`.
    """

    def __init__(self, solve: Solve | None) -> None:
        super().__init__()
        self.solve = Solve() if solve is None else solve
        self.estimator: Estimator | None = None

    def _resolvent(self, bound: BoundMap, x: Float[Tensor, " batch *shape"]) -> Solution:
        """The solution of w + G(w) = x, recorded."""
        try:
            listener = derivative_listener(self, raises=self.solve.on_failure == "raise")
            solution = self.solve(bound, x, listener)
        except SolverError as error:
            if error.solution is not None:
                post_solution(self, error.solution)
            raise
        post_solution(self, solution)
        return solution

    def _linearize(
        self, estimator: Estimator, bound: BoundMap, solution: Solution
    ) -> Linearization:
        """G at a solution, where the solver may have linearized it already."""
        known = solution.linearization
        # Other estimators may need linearizations of their own making.
        if known is not None and isinstance(estimator, Exact):
            return known
        return estimator.linearize(bound, solution.value)

    def _estimator(self, x: Tensor) -> Estimator:
        if self.estimator is not None:
            return self.estimator
        return default_estimator(prod(x.shape[1:]), training=self.training)

    def _log_det(
        self, estimator: Estimator, linearization: Linearization, kind: Kind
    ) -> Float[Tensor, " batch"]:
        log_det = estimator.log_det(linearization, kind)
        post_log_det(self, log_det)
        return log_det.value


def checked(x: Tensor, context: Context, *maps: LipschitzMap) -> Tensor:
    """The input of a block, in float32 or float64.

    Raises:
        ValueError: If a map is not made for it, or it is no floating-point tensor.
    """
    if not x.is_floating_point():
        raise ValueError(f"expected a floating-point x, got {x.dtype}; convert it first")
    for g in maps:
        g.require_input(x, context)
    return x if x.dtype == torch.float64 else x.float()


@contextmanager
def with_estimator(model: nn.Module, estimator: Estimator | None) -> Generator[None]:
    """Use an estimator in every block of `model` inside the context; None is the default one."""
    blocks = [m for m in model.modules() if isinstance(m, FixedPointBlock)]
    before = [block.estimator for block in blocks]
    for block in blocks:
        block.estimator = estimator
    try:
        yield
    finally:
        for block, old in zip(blocks, before, strict=True):
            block.estimator = old
