"""Random lengths for Russian roulette, drawn on the CPU so that all ranks agree."""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Protocol, final, runtime_checkable

import torch
from flow_solvers import require_kind, require_number
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Length(Protocol):
    """A law of N in {0, 1, 2, ...}."""

    def draw(self, size: tuple[int, ...]) -> Int[Tensor, "..."]:
        """Independent lengths from the default CPU generator."""
        ...

    def survival(self, count: int) -> Float[Tensor, " count"]:
        """P(N ≥ k) for k = 1, ..., count, in float64 on the CPU."""
        ...

    def variance_radius(self) -> float:
        """The spectral radius of J below which roulette has a finite variance."""
        ...


def check_length(length: object) -> None:
    """Raise a TypeError unless it is a law of lengths."""
    require_kind("length", length, Length, "a law of lengths such as Geometric()")


@final
@dataclass(frozen=True)
class Geometric:
    """P(N ≥ k) = (1 - p)ᵏ⁻¹, N ≥ 1; the variance is finite for ρ(J) < √(1 - p).

    Source: Chen et al. 2019 (Residual Flows), §3.1.

    Attributes:
        p: Probability of stopping, in (0, 1).
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        require_number("p", self.p)
        if not 0 < self.p < 1:
            raise ValueError(f"expected a stopping probability in (0, 1), got {self.p}")

    def draw(self, size: tuple[int, ...]) -> Int[Tensor, "..."]:
        """Geometric numbers."""
        return torch.empty(size, dtype=torch.float64).geometric_(self.p).long()

    def survival(self, count: int) -> Float[Tensor, " count"]:
        """(1 - p)ᵏ⁻¹."""
        return (1 - self.p) ** torch.arange(count, dtype=torch.float64)

    def variance_radius(self) -> float:
        """√(1 - p)."""
        return sqrt(1 - self.p)


@final
@dataclass(frozen=True)
class Poisson:
    """N ~ Poisson(λ): P(N ≥ k) falls faster than any power, so the variance is always infinite.

    Exact terms postpone the rare huge outliers, they do not remove them. Offered for reproduction
    of published results. Source: the codes of Chen et al. 2019 and Ahn et al. 2022.

    Attributes:
        lam: Mean λ > 0.
    """

    lam: float = 2.0

    def __post_init__(self) -> None:
        require_number("lam", self.lam)
        if not 0 < self.lam < inf:
            raise ValueError(f"expected a positive finite mean, got {self.lam}")

    def draw(self, size: tuple[int, ...]) -> Int[Tensor, "..."]:
        """Poisson numbers."""
        return torch.poisson(torch.full(size, self.lam, dtype=torch.float64)).long()

    def survival(self, count: int) -> Float[Tensor, " count"]:
        """The regularized lower incomplete gamma function P(k, λ)."""
        k = torch.arange(1, count + 1, dtype=torch.float64)
        survival: Tensor = torch.special.gammainc(k, torch.full_like(k, self.lam))
        return survival

    def variance_radius(self) -> float:
        """0: no Jacobian but zero has a finite variance."""
        return 0.0
