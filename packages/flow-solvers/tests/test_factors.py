"""Adjoint systems by factors that exist."""

import pytest
import torch
from flow_solvers import (
    Adjoint,
    Direct,
    Factored,
    Factors,
    FunctionMap,
    Gmres,
    JacobianLinearization,
    Linearization,
    Status,
    factorise,
)
from torch import Tensor

BATCH, DIM = 5, 7


@pytest.fixture
def matrices() -> Tensor:
    raw = torch.randn(BATCH, DIM, DIM, generator=torch.Generator().manual_seed(0)).double()
    sizes: Tensor = torch.linalg.matrix_norm(raw, 2, keepdim=True)
    return 0.99 * raw / sizes


@pytest.fixture
def rhs() -> Tensor:
    return torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(1)).double()


def linearization(matrices: Tensor) -> Linearization:
    point = matrices.new_zeros(matrices.shape[:2])
    return JacobianLinearization(FunctionMap(lambda w: 0 * w), point, point, matrices)


@pytest.mark.parametrize("otherwise", [Direct(), Gmres()])
def test_no_product_is_needed(matrices: Tensor, rhs: Tensor, otherwise: Direct | Gmres) -> None:
    rhs[2] = 0
    solver = Factored(factorise(matrices), otherwise)
    found = solver.solve(Adjoint(linearization(matrices)), rhs)
    eye = torch.eye(DIM, dtype=torch.float64)
    expected: Tensor = torch.linalg.solve((eye + matrices).mT, rhs)
    torch.testing.assert_close(found.value, expected, rtol=1e-10, atol=1e-12)
    assert found.status.tolist() == [Status.CONVERGED] * BATCH
    assert not found.products.any()


def test_wrong_factors_are_noticed(matrices: Tensor, rhs: Tensor) -> None:
    """Those of other matrices miss the tolerance, and the other solver is asked."""
    right, wrong = factorise(matrices), factorise(0.5 * matrices)
    mixed = Factors(right.jacobian, wrong.lu, wrong.pivots)
    found = Factored(mixed, Gmres()).solve(Adjoint(linearization(matrices)), rhs)
    expected = Gmres().solve(Adjoint(linearization(matrices)), rhs)
    torch.testing.assert_close(found.value, expected.value)
    assert found.products.min() > 0


def test_singular_matrices_raise_nothing(rhs: Tensor) -> None:
    matrices = -torch.eye(DIM, dtype=torch.float64).expand(BATCH, -1, -1)
    found = Factored(factorise(matrices), Direct()).solve(Adjoint(linearization(matrices)), rhs)
    assert not found.solvable
