"""What a caller chooses for one pass through a model."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from flow_logdet import Estimator
from flow_solvers import (
    AdjointSolver,
    BoundMap,
    DerivativeListener,
    Solution,
    Solver,
    Tolerance,
    require_adjoint,
    require_integer,
    require_kind,
    require_on_failure,
    require_solver,
    resolvent,
)
from jaxtyping import Float
from torch import Tensor

from flow_core.memory.policies import Checkpointed, MemoryPolicy, Reversible

Mode: TypeAlias = Literal["exact", "surrogate", "approximate_inverse"]


@dataclass(frozen=True)
class Solve:
    """How fixed points are solved.

    Attributes:
        solver: For w + G(w) = x; None chooses by dimension.
        adjoint: For (I + Jᵀ) v = g; None chooses by dimension.
        tolerance: Of every sample.
        on_failure: Raise `SolverError`, or return and leave the status to `record`.

    Raises:
        ValueError: `on_failure` is neither of the two.
        TypeError: If a field is of another kind, a class in place of an instance for one.
    """

    solver: Solver | None = None
    adjoint: AdjointSolver | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    on_failure: Literal["raise", "return"] = "raise"

    def __post_init__(self) -> None:
        if self.solver is not None:
            require_solver("solver", self.solver)
        if self.adjoint is not None:
            require_adjoint("adjoint", self.adjoint)
        require_kind("tolerance", self.tolerance, Tolerance, "a Tolerance(rtol=...)")
        require_on_failure(self.on_failure)

    def __call__(
        self,
        bound: BoundMap,
        x: Float[Tensor, " batch *shape"],
        listener: DerivativeListener | None = None,
        *,
        linearized: bool = False,
    ) -> Solution:
        """Solve w + G(w) = x, differentiably; see `flow_solvers.resolvent`."""
        return resolvent(
            bound,
            x,
            solver=self.solver,
            adjoint=self.adjoint,
            tolerance=self.tolerance,
            on_failure=self.on_failure,
            listener=listener,
            linearized=linearized,
        )


def require_solve(solve: object) -> None:
    """Refuse what is no `Solve`.

    Raises:
        TypeError: With what to pass instead.
    """
    require_kind("solve", solve, Solve, "a Solve(...), a solver as Solve(solver=...)")


@dataclass(frozen=True)
class Settings:
    """What one call of a bijection or a flow does its work with; passed as `using=`.

    The same model can be used with different settings at the same time: they travel with the call
    and are never kept.

    Attributes:
        estimator: Of the log-determinants of fixed-point blocks; None is
            `flow_logdet.default_estimator` for the dimension and the mode of the block.
        solve: How blocks solve; None leaves it to each block's own.
        mode: exact; surrogate: self-normalizing layers give a stand-in of their log-determinant,
            which is none, see `TrainingSurrogate`; approximate_inverse: they use their learned
            inverse, quick and only nearly right, and samples come with the density that they are
            drawn from.
        compiled: Batch sizes for which Inductor compiles the maps of blocks. In small dimension
            that is every evaluation, the Newton solve and first derivatives; of other maps it is
            the value where no graph is wanted. Everything else runs eager. Needs a C++ compiler on
            CPU; the first evaluation of each kind compiles.
        memory: What compositions keep for the backward pass in place of what their layers make:
            `Checkpointed()` the inputs of layers, `Reversible()` the last output alone. None keeps
            everything, as does what `torch.compile` makes of a whole composition.

    Raises:
        ValueError: If there is no such mode, or a batch size is negative.
        TypeError: If a field is of another kind.
    """

    estimator: Estimator | None = None
    solve: Solve | None = None
    mode: Mode = "exact"
    compiled: frozenset[int] = frozenset()
    memory: MemoryPolicy | None = None

    def __post_init__(self) -> None:
        if self.solve is not None:
            require_solve(self.solve)
        if self.estimator is not None:
            example = "an estimator such as Exact() or Krylov()"
            require_kind("estimator", self.estimator, Estimator, example)
        require_kind("compiled", self.compiled, frozenset, "a frozenset of batch sizes")
        for size in self.compiled:
            require_integer("every batch size of compiled", size, 0)
        if self.memory is not None:
            kinds = (Checkpointed, Reversible)
            require_kind("memory", self.memory, kinds, "Checkpointed() or Reversible()")
        if self.mode not in get_args(Mode):
            raise ValueError(f"expected a mode of {', '.join(get_args(Mode))}, got {self.mode!r}")


DEFAULT_SETTINGS = Settings()
