"""What a solve returns: values, and for every sample how good they are."""

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow_solvers.maps import Linearization


class Status(IntEnum):
    """How the solve of one sample ended."""

    CONVERGED = 0
    """The residual at the returned value meets the tolerance."""
    STALLED = 1
    """The residual stopped falling above the tolerance."""
    BUDGET = 2
    """The evaluations ran out."""
    NONFINITE = 3
    """No finite residual was ever seen; the returned value is NaN."""


@dataclass(frozen=True)
class Solution:
    """The value of a solve and its quality per sample.

    Attributes:
        value: The best iterate, in the units of x.
        residual: rms of x - w - G(w) at `value`, as evaluated in the precision of x.
        evaluations: Evaluations of G that the sample took part in while it was unsolved.
        status: A `Status` per sample.
        error_bound: rms distance to the exact solution, (residual + ρ)/(1 - L), where L is
            certified. ρ = eps·(4 rms w + 5 rms(x - w) + 5 residual) is what rounding may have taken
            from the residual: it covers the subtractions, and a G that is evaluated to within
            4·eps·(rms w + rms G(w)), as nets of a few layers are.
        calls: Batched calls of G, the sequential depth of the solve.
        linearization: G linearized at `value`, where the solver has it anyway; differentiable like
            `value`, as a function of x and of the tensors of G.
    """

    value: Float[Tensor, " batch *shape"]
    residual: Float[Tensor, " batch"]
    evaluations: Int[Tensor, " batch"]
    status: Int[Tensor, " batch"]
    error_bound: Float[Tensor, " batch"] | None
    calls: int
    linearization: Linearization | None = field(default=None, repr=False, compare=False)

    @property
    def converged(self) -> Bool[Tensor, " batch"]:
        """Which samples meet the tolerance."""
        return self.status == Status.CONVERGED

    @cached_property
    def all_converged(self) -> bool:
        """Whether every sample meets the tolerance; synchronises with the device once."""
        return not bool(self.status.any())


class SolverError(RuntimeError):
    """Some samples were not solved.

    Attributes:
        indices: Their positions in the batch.
        residuals: Their residuals.
        status: Their status.
        solution: Everything that was found, the solved samples included; None for a linear solve.
    """

    def __init__(
        self,
        what: str,
        residual: Float[Tensor, " batch"],
        status: Int[Tensor, " batch"],
        solution: Solution | None = None,
    ) -> None:
        failed = status != Status.CONVERGED
        self.indices: Int[Tensor, " failed"] = torch.nonzero(failed).flatten()
        self.residuals: Float[Tensor, " failed"] = residual[failed]
        self.status: Int[Tensor, " failed"] = status[failed]
        self.solution = solution
        super().__init__(self._describe(what, status.numel()))

    def _describe(self, what: str, batch: int) -> str:
        names = [Status(int(s)).name for s in self.status]
        counts = ", ".join(f"{names.count(s.name)} {s.name}" for s in Status if s.name in names)
        shown = ", ".join(str(int(i)) for i in self.indices[:8])
        more = ", ..." if self.indices.numel() > 8 else ""
        return (
            f"{what}: {self.indices.numel()} of {batch} samples were not solved ({counts}); "
            f"samples {shown}{more}, worst residual {float(self.residuals.max()):.2e}. "
            f"{self._advice()} or pass on_failure='return' and look at the status."
        )

    def _advice(self) -> str:
        if bool((self.status == Status.NONFINITE).all()):
            return "Look for NaN or inf in x, in the context and in the weights,"
        return (
            "Loosen the tolerance (give an atol if samples come close to zero), raise the budget, "
            "lower the Lipschitz constant of G,"
        )
