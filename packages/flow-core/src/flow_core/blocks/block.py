"""What residual, implicit and monotone blocks share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from flow_logdet import (
    Estimator,
    Exact,
    Kind,
    LogDet,
    StochasticEstimator,
    default_estimator,
)
from flow_solvers import SMALL_DIMENSION, BoundMap, Linearization, Solution, SolverError
from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection, common_context_shape
from flow_core.maps import LipschitzMap
from flow_core.modules import require_module
from flow_core.passes import Pass, zeros
from flow_core.record import derivative_listener, post_log_det, post_solution
from flow_core.settings import Solve, require_solve


@dataclass(frozen=True)
class Located:
    """The result of an evaluation or of a solve.

    Attributes:
        value: G(x), or the solution w.
        linearization: G linearized at x or at w, where a log-determinant is wanted.
    """

    value: Float[Tensor, " batch *shape"]
    linearization: Linearization | None


class FixedPointBlock(Bijection):
    """A bijection made of contractions, that solves a fixed point in at least one direction.

    Kinds give the two hooks of a bijection and `bounds`, in terms of `how.bind(g)`, `_evaluate`,
    `_solve` and `_log_det`.

    Args:
        maps: The contractions it is made of; kinds keep them as attributes of their own.
        solve: How its fixed points are solved unless the settings of a call say otherwise.

    Raises:
        TypeError: If one of them is of another kind.
    """

    def __init__(self, maps: Sequence[LipschitzMap], solve: Solve | None = None) -> None:
        for g in maps:
            require_module("G", g, LipschitzMap, "a LipschitzMap such as DenseNet(...)")
        if solve is not None:
            require_solve(solve)
        super().__init__(next((g.event_shape for g in maps if g.event_shape is not None), None))
        self.uses_context = any(g.uses_context for g in maps)
        self.context_shape = common_context_shape(maps)
        self.solve = Solve() if solve is None else solve

    def contractions(self) -> Iterator[LipschitzMap]:
        """Those that the block has as attributes."""
        return (child for child in self.children() if isinstance(child, LipschitzMap))

    def _evaluate(self, bound: BoundMap, x: Float[Tensor, " batch *shape"], how: Pass) -> Located:
        """G(x)."""
        if not how.wants_log_det:
            return Located(bound(x), None)
        linearization = self._estimator(x, how).linearize(bound, x)
        return Located(linearization.value, linearization)

    def _solve(self, bound: BoundMap, x: Float[Tensor, " batch *shape"], how: Pass) -> Located:
        """The solution w of w + G(w) = x, recorded."""
        if not how.wants_log_det:
            return Located(self._solution(bound, x, how).value, None)
        estimator = self._estimator(x, how)
        # Other estimators may need linearizations of their own making.
        serves = isinstance(estimator, StochasticEstimator | Exact)
        # In small dimension solves come with their whole Jacobian, and may be compiled.
        small = isinstance(estimator, Exact) and prod(x.shape[1:]) <= SMALL_DIMENSION
        solution = self._solution(bound, x, how, linearized=serves and not small)
        known = solution.linearization
        if known is None or not serves:
            known = estimator.linearize(bound, solution.value)
        return Located(solution.value, known)

    def _log_det(self, at: Located, kind: Kind, how: Pass) -> Float[Tensor, " batch"]:
        """The log-determinant there, recorded; zeros where none is wanted."""
        if at.linearization is None:
            return zeros(at.value)
        return self._told(self._estimator(at.value, how).log_det(at.linearization, kind), how)

    def _told(self, log_det: LogDet, how: Pass) -> Float[Tensor, " batch"]:
        post_log_det(how.reports, self, log_det)
        return log_det.value

    def _estimator(self, x: Tensor, how: Pass) -> Estimator:
        chosen = how.settings.estimator
        return default_estimator(prod(x.shape[1:]), self.training) if chosen is None else chosen

    def _solution(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        how: Pass,
        *,
        linearized: bool = False,
    ) -> Solution:
        solve = self.solve if how.settings.solve is None else how.settings.solve
        listener = derivative_listener(how.reports, self, raises=solve.on_failure == "raise")
        try:
            solution = solve(bound, x, listener, linearized=linearized)
        except SolverError as error:
            if error.solution is not None:
                post_solution(how.reports, self, error.solution)
            raise
        post_solution(how.reports, self, solution)
        return solution
