"""Log-determinants from Krylov spaces: value and gradient from one basis."""

from dataclasses import dataclass, field
from typing import final

import torch
from flow_solvers import require_kind, require_number
from flow_solvers.krylov.process import OrthonormalRows, unit
from flow_solvers.maps import Linearization
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_logdet.gradient import Pairs
from flow_logdet.hessenberg import FirstColumns, first_columns, solve_remainder
from flow_logdet.kinds import Kind
from flow_logdet.probes import Probe, Rademacher
from flow_logdet.stochastic import ProbeEstimator, Quadrature, check_counts, check_probe

FIRST_CHECK = 2


@final
@dataclass(frozen=True)
class Krylov(ProbeEstimator):
    """‖ε‖²[f(H)]₁₁ and v = ‖ε‖·V f'(H)e₁ from the Arnoldi basis V of Jᵀ started at ε.

    m steps are exact for polynomials of degree m, so they beat a truncated series of m terms; the
    error is deterministic (no random length) and bounded by `bias_bound`.

    Source: Arnoldi (FOM) quadrature, Saad 1992; stochastic quadrature, Ubaru, Chen and Saad 2017.

    Attributes:
        steps: Most products with Jᵀ per probe.
        probe: Law of the probes.
        probes: Number of independent probes.
        tolerance: Stop before `steps` when, for every sample, the relative residual of the
            solves behind v and of those behind the value is below this; 0 never stops early.
        control_variate: Use the first-order part where there is one.
        chunk: Most vectors that go through one pass together; bounds the memory of diluted probes.
    """

    steps: int = 8
    probe: Probe = field(default_factory=Rademacher)
    probes: int = 1
    tolerance: float = 1e-3
    control_variate: bool = True
    chunk: int = 16

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, probes=self.probes, chunk=self.chunk)
        check_probe(self.probe)
        require_kind("control_variate", self.control_variate, bool, "True or False")
        require_number("tolerance", self.tolerance)
        if not self.tolerance >= 0:
            raise ValueError(f"expected a tolerance of at least 0, got {self.tolerance}")

    def quadrature(
        self,
        linearization: Linearization,
        kind: Kind,
        probes: Float[Tensor, " count groups batch *shape"],
    ) -> Quadrature:
        """Forms and pairs, chunk by chunk."""
        count, vectors = len(probes), probes.flatten(0, 1)
        spaces = [
            self._space(linearization, kind, chunk) for chunk in torch.split(vectors, self.chunk)
        ]

        def pairs() -> Pairs:
            adjoints = torch.cat([space.adjoint() for space in spaces])
            return Pairs(adjoints / count, vectors)

        return Quadrature(
            forms=torch.cat([space.forms() for space in spaces]),
            errors=torch.cat([space.errors() for space in spaces]),
            products=sum(space.products for space in spaces),
            pairs=pairs,
        )

    def bias_bound(self, dim: int, lipschitz: float, kind: Kind) -> float:
        """A bound on |E[value] - log det| in nats, for probes of signs or normal numbers.

        dim·max(2·Σ_{k > m} |a_k| Lᵏ, tolerance/(1 - L)): the quadrature is exact for
        polynomials of degree m, on J as on H; an early stop bounds the residuals instead.

        Args:
            dim: Dimension of a sample.
            lipschitz: A bound L < 1 on ‖J‖.
            kind: Which log-determinant.
        """
        truncated = 2 * kind.tail(self.steps, lipschitz)
        return dim * max(truncated, self.tolerance / (1 - lipschitz))

    def _space(
        self,
        linearization: Linearization,
        kind: Kind,
        vectors: Float[Tensor, " vectors batch *shape"],
    ) -> "_Space":
        """Arnoldi on Jᵀ from every vector, until the tolerance or the last step."""
        problems = vectors.shape[:2].numel()
        direction, norm = unit(vectors.reshape(problems, vectors.shape[2:].numel()))
        rows = OrthonormalRows(direction, self.steps + 1)
        hessenberg = direction.new_zeros(problems, self.steps + 1, self.steps)
        step = 0
        while True:
            step += 1
            image = linearization.vjp(rows.last.reshape(vectors.shape)).reshape(direction.shape)
            coefficients, length, _ = rows.add(image)
            hessenberg[:, :step, step - 1] = coefficients
            hessenberg[:, step, step - 1] = length
            columns = self._columns(hessenberg[:, :step, :step], length, kind)
            if columns is not None:
                return _Space(rows.rows[:, :step], norm, length, columns, vectors.shape)

    def _columns(
        self,
        hessenberg: Float[Tensor, " problems steps steps"],
        length: Float[Tensor, " problems"],
        kind: Kind,
    ) -> FirstColumns | None:
        """f(H)e₁ and f'(H)e₁ at the last step or where the tolerance is met, else None."""
        step = hessenberg.shape[-1]
        if step == self.steps:
            return first_columns(hessenberg, kind)
        if step < FIRST_CHECK or self.tolerance == 0:
            return None
        # A cheap part of the remainder first: most steps fail already there.
        length = in_float64(length)
        if not self._is_enough(solve_remainder(hessenberg, kind) * length):
            return None
        columns = first_columns(hessenberg, kind)
        return columns if self._is_enough(columns.remainder * length) else None

    def _is_enough(self, residual: Float[Tensor, " problems"]) -> bool:
        return bool((residual <= self.tolerance).all())


@dataclass(frozen=True)
class _Space:
    """Krylov spaces of several vectors and samples, and functions on them.

    Attributes:
        basis: Orthonormal rows, per vector and sample.
        norm: ‖ε‖.
        rest: The next subdiagonal entry of H.
        columns: f(H)e₁ and f'(H)e₁.
        shape: Of the vectors, `(vectors, batch, *shape)`.
    """

    basis: Float[Tensor, " problems steps dim"]
    norm: Float[Tensor, " problems"]
    rest: Float[Tensor, " problems"]
    columns: FirstColumns
    shape: torch.Size

    @property
    def products(self) -> int:
        """One product per vector and step."""
        return self.shape[0] * self.basis.shape[1]

    def forms(self) -> Float[Tensor, " vectors batch"]:
        """‖ε‖²[f(H)]₁₁ in float64."""
        return (in_float64(self.norm).square() * self.columns.function[:, 0]).view(self.shape[:2])

    def errors(self) -> Float[Tensor, " vectors batch"]:
        """About the largest error that the forms may have, see `FirstColumns.error`."""
        size = in_float64(self.norm).square() * in_float64(self.rest)
        return (size * self.columns.error).view(self.shape[:2])

    def adjoint(self) -> Float[Tensor, " vectors batch *shape"]:
        """v = ‖ε‖·V f'(H)e₁ ≈ f'(Jᵀ)ε."""
        weights = self.norm.unsqueeze(1) * self.columns.derivative.to(self.norm)
        return (weights.unsqueeze(1) @ self.basis).view(self.shape)
