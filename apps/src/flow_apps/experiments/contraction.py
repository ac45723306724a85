"""How the layers of a model are kept contractions."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from flow_core.settings import Solve
from flow_solvers import Tolerance

from flow_apps.training import require


@dataclass(frozen=True, kw_only=True)
class ContractionConfig:
    """How Lipschitz constants are kept, and what a failed solve does.

    Attributes:
        coeff: Bound on the spectral norm of every layer, below 1.
        concat_bound: Bound on the weights of a concatenation, at most 1.
        learn_concat_from: First step that changes the weights of the concatenations.
        power_iterations: Power iterations of convolutions after every step; the spectral norms of
            matrices are exact at all times.
        test_power_iterations: Power iterations of convolutions before every test.
        rtol: Relative tolerance of every solve, see `flow_solvers.Tolerance`; None for its default.
        atol: Absolute tolerance of every solve, for samples that come close to zero as a whole.
        on_solver_failure: End the run, or go on with the best iterate and count the failure.
    """

    coeff: float = 0.9
    concat_bound: float = 0.98
    learn_concat_from: int = 25_000
    power_iterations: int = 5
    test_power_iterations: int = 200
    rtol: float | None = None
    atol: float = 0.0
    on_solver_failure: Literal["raise", "return"] = "raise"

    def __post_init__(self) -> None:
        coeff, concat = self.coeff, self.concat_bound
        require(0 < coeff < 1, f"coeff: expected between 0 and 1, exclusive, got {coeff}")
        require(0 < concat <= 1, f"concat_bound: expected in (0, 1], got {concat}")
        for name in ("power_iterations", "test_power_iterations"):
            value = getattr(self, name)
            require(value > 0, f"{name}: expected a positive integer, got {value}")
        rtol = self.rtol
        require(rtol is None or 0 < rtol < 1, f"rtol: expected between 0 and 1, got {rtol}")
        require(0 <= self.atol < inf, f"atol: expected 0 or more, got {self.atol}")

    def solve(self) -> Solve:
        """Settings of the solves of a block."""
        return Solve(tolerance=Tolerance(self.rtol, self.atol), on_failure=self.on_solver_failure)


def require_spread(test_size: int) -> None:
    """Refuse a test that can have no standard error.

    Raises:
        ConfigError: If it has fewer than two samples.
    """
    require(test_size > 1, f"test_size: expected at least 2 for a standard error, got {test_size}")
