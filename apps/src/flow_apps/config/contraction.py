"""How the layers of a model are kept contractions."""

from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias

from flow_apps.config.checks import require, require_counts

BlockName: TypeAlias = Literal["monotone", "residual", "implicit"]
SpectralName: TypeAlias = Literal["golub-kahan", "power"]


@dataclass(frozen=True, kw_only=True)
class ContractionConfig:
    """How Lipschitz constants are kept, and what a failed solve does.

    Attributes:
        coeff: Bound on the spectral norm of every layer, below 1; of a whole net where it is
            Lipschitz by construction.
        concat_bound: Bound on the weights of a concatenation, at most 1.
        learn_concat_from: First step that changes the weights of the concatenations.
        spectral: How spectral norms of convolutions are followed; those of matrices are exact at
            all times.
        power_iterations: Products with each convolution and its adjoint after every step; none: as
            many as its method finds necessary.
        test_power_iterations: The same before every test.
        rtol: Relative tolerance of every solve, see `flow_solvers.Tolerance`; none for its default.
        atol: Absolute tolerance of every solve, for samples that come close to zero as a whole.
        on_solver_failure: End the run, or go on with the best iterate and count the failure.
    """

    coeff: float = 0.9
    concat_bound: float = 0.98
    learn_concat_from: int = 25_000
    spectral: SpectralName = "golub-kahan"
    power_iterations: int | None = None
    test_power_iterations: int | None = 200
    rtol: float | None = None
    atol: float = 0.0
    on_solver_failure: Literal["raise", "return"] = "raise"

    def __post_init__(self) -> None:
        coeff, concat = self.coeff, self.concat_bound
        require(0 < coeff < 1, f"coeff: expected between 0 and 1, exclusive, got {coeff}")
        require(0 < concat <= 1, f"concat_bound: expected in (0, 1], got {concat}")
        for name in ("power_iterations", "test_power_iterations"):
            if getattr(self, name) is not None:
                require_counts(self, name, most=100_000)
        rtol = self.rtol
        require(rtol is None or 0 < rtol < 1, f"rtol: expected between 0 and 1, got {rtol}")
        require(0 <= self.atol < inf, f"atol: expected 0 or more, got {self.atol}")
