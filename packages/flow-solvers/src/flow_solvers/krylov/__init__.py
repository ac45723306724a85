"""Krylov spaces of batches of operators: bases with safe orthogonality and breakdown masks."""

from flow_solvers.krylov.arnoldi import Arnoldi, Matvec, arnoldi
from flow_solvers.krylov.golub_kahan import GolubKahan, golub_kahan
from flow_solvers.krylov.lanczos import Lanczos, lanczos

__all__ = ["Arnoldi", "GolubKahan", "Lanczos", "Matvec", "arnoldi", "golub_kahan", "lanczos"]
