"""Krylov spaces of batches of operators: bases with safe orthogonality and breakdown masks."""

from flow_solvers.krylov.arnoldi import Arnoldi, Matvec, arnoldi
from flow_solvers.krylov.golub_kahan import Bidiagonalization, golub_kahan
from flow_solvers.krylov.lanczos import Lanczos, lanczos
from flow_solvers.krylov.process import OrthonormalRows, unit

__all__ = [
    "Arnoldi",
    "Bidiagonalization",
    "Lanczos",
    "Matvec",
    "OrthonormalRows",
    "arnoldi",
    "golub_kahan",
    "lanczos",
    "unit",
]
